"""The web app that collects feedback."""

from mmrlhf_ray.feedback.app.factory import create_app

__all__ = ["create_app"]
