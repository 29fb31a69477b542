"""What every process of the shop needs around its own work: HTTP, settings, logs, telemetry."""
