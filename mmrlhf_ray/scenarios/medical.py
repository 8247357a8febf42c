"""Findings in chest pictures with the patient's record, in the layout of the RSNA pneumonia challenge.

    stage_2_train_images/PATIENT.dcm            DICOM, with PatientAge, PatientSex and ViewPosition
    stage_2_detailed_class_info.csv             patientId,class

Of the header only age by decade, sex and view are carried over, and the identifier as a hash: names, dates and numbers
never reach a record.
"""

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from mmrlhf_ray.data.media import media_row, to_png
from mmrlhf_ray.errors import DataError, needs
from mmrlhf_ray.scenarios.cases import Case
from mmrlhf_ray.scenarios.pictures import grey

CLASSES = {"Normal": "normal", "No Lung Opacity / Not Normal": "other", "Lung Opacity": "opacity"}
_IMAGES, _LABELS = "stage_2_train_images", "stage_2_detailed_class_info.csv"
_PATIENTS, _SIDE = 1200, 48


def read(root: Path) -> Iterator[Case]:
    """A case of each patient that the table names. Raises DataError for a table, a class or a picture that is not
    there."""
    needs("scenarios")
    import pydicom

    table = root / _LABELS
    if not table.is_file():
        raise DataError(f"{root}: expected {_LABELS} and {_IMAGES}/, as the challenge's archive has them")
    with table.open(newline="") as file:
        found = {row["patientId"]: row["class"] for row in csv.DictReader(file)}  # a patient may have several boxes
    for patient, said in found.items():
        if said not in CLASSES:
            raise DataError(f"{table}: patient {patient}: expected one of {', '.join(CLASSES)}, got {said!r}")
        picture = pydicom.dcmread(root / _IMAGES / f"{patient}.dcm")
        age, sex = int(str(picture.PatientAge).rstrip("Y")), str(picture.PatientSex)
        pixels = picture.pixel_array.astype(np.float64)
        unknown = hashlib.sha256(patient.encode()).hexdigest()[:16]
        yield Case(
            name=unknown,
            source=unknown,
            text=f"age{age // 10 * 10} sex{sex} view{picture.ViewPosition}",
            media=(media_row("image", to_png(grey(pixels / max(float(pixels.max()), 1.0)))),),
            answer=CLASSES[said],
            group=f"{'women' if sex == 'F' else 'men'} {'from 60' if age >= 60 else 'below 60'}",
        )


def make(root: Path, seed: int, patients: int = _PATIENTS) -> None:
    """Two dark lungs between light tissue: clear, with a soft shadow in one of them (opacity), or with a heart too wide
    (not normal, no opacity). In pictures from the front (AP), of those who lie in bed, contrast is half."""
    needs("scenarios")
    (root / _IMAGES).mkdir(parents=True)
    rows = []
    for number in range(patients):
        rng = np.random.default_rng([seed, number])
        said = str(rng.choice(list(CLASSES)))
        age = int(np.clip(rng.normal(45 if said == "Normal" else 55, 16), 18, 90))
        sex, view = str(rng.choice(["F", "M"])), str(rng.choice(["PA", "AP"]))
        patient = f"{rng.integers(2**63):016x}"
        _write_dicom(root / _IMAGES / f"{patient}.dcm", _chest(said, sex, view, rng), patient, age, sex, view)
        rows.append({"patientId": patient, "class": said})
    with (root / _LABELS).open("w", newline="") as file:
        writer = csv.DictWriter(file, ["patientId", "class"])
        writer.writeheader()
        writer.writerows(rows)


def _chest(said: str, sex: str, view: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 [side, side]."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    width = 0.13 if sex == "F" else 0.15
    picture = np.full((_SIDE, _SIDE), 0.75)
    for middle in (0.3, 0.7):
        inside = ((columns - middle) / width) ** 2 + ((rows - 0.5) / 0.33) ** 2 < 1
        picture[inside] = 0.25
    heart = 0.13 if said == "No Lung Opacity / Not Normal" else 0.09
    picture[((columns - 0.54) / heart) ** 2 + ((rows - 0.65) / 0.14) ** 2 < 1] = 0.7
    if said == "Lung Opacity":
        row, column = rng.uniform(0.35, 0.7), rng.choice([0.3, 0.7]) + rng.uniform(-0.04, 0.04)
        picture += rng.uniform(0.15, 0.4) * np.exp(
            -((rows - row) ** 2 + (columns - column) ** 2) / (2 * rng.uniform(0.05, 0.08) ** 2)
        )
    picture = gaussian_filter(picture, 1.0)
    if view == "AP":
        picture = 0.5 + (picture - 0.5) * 0.5
    return grey(picture + rng.normal(0.0, 0.12, picture.shape))


def _write_dicom(path: Path, pixels: np.ndarray, patient: str, age: int, sex: str, view: str) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[patient])
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.PatientID, image.PatientName = patient, f"Doe^{patient[:4]}"
    image.PatientAge, image.PatientSex, image.ViewPosition, image.Modality = f"{age:03d}Y", sex, view, "CR"
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = pixels.tobytes()
    image.save_as(path, enforce_file_format=True)
