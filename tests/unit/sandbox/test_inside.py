"""Loading a user's function, and how an exception in it is reported."""

import pytest

from mmrlhf_ray.sandbox.inside import load_function, report


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", ["…"])
    monkeypatch.setattr("sys.modules", {})

    def load(source, name="f"):
        (tmp_path / "mine.py").write_text(source)
        return load_function(f"{tmp_path}/mine.py:{name}")

    return load


def test_a_function_is_found_by_its_file(mine):
    assert mine("def f(x): return x + 1")(1) == 2
    assert mine("class C:\n    def __call__(self): return 7\ng = C()", "g")() == 7


def test_a_file_without_the_function_says_which_it_has(mine):
    with pytest.raises(ImportError, match="it has no function 'f'; its functions are g, h"):
        mine("import json\nfrom json import loads\ndef h(): ...\ndef g(): ...\nf = 3")
    with pytest.raises(ImportError, match="its functions are none"):
        mine("x = 1")
    with pytest.raises(ZeroDivisionError):
        mine("1 / 0")


def test_what_is_no_python_file_is_said(tmp_path):
    with pytest.raises(ImportError, match="notes.txt is not a Python file"):
        load_function(f"{tmp_path}/notes.txt:f")


def test_an_exception_in_one_line_with_its_place_in_the_users_code(mine, capfd):
    function = mine("def f():\n    raise KeyError('two\\n  lines', 'x' * 1000)")
    try:
        function()
    except KeyError as error:
        said = report(error, __file__)
    assert said.startswith(r"raised KeyError: ('two\n lines', 'xxx")
    assert said.endswith("x (mine.py, line 2)")
    assert len(said) < 350
    assert "Traceback" in capfd.readouterr().err
    assert report(SystemExit(), __file__) == "raised SystemExit"
