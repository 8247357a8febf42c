"""How every report page is rendered: one file, no network, everything that comes from data escaped."""

import jinja2


def page_environment(package: str) -> jinja2.Environment:
    """Templates of `package`, and the parts that all pages share. A name that a template lacks is an error."""
    loaders = [jinja2.PackageLoader(package), jinja2.PackageLoader("mmrlhf_ray.reports")]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
