"""Installing the service for a pip, pipx, uv or venv installation: system-wide, or in a user's own systemd.

`service.install` and `service.uninstall` look at what is there and return a `plan.Plan`; nothing changes before
`plan.carry_out`.
"""
