"""`python -m mmrlhf_ray.cli`."""

from mmrlhf_ray.cli.main import main

main()
