"""Jobs of a night: issue, mature, calibrate, standings."""
