"""Run configurations: one frozen pydantic model per job, YAML plus dotted overrides."""
