"""What happens without a click: jobs, conditions, sensors, retraining, lost runs, alerts."""

from pathlib import Path

INSTANCE_FILE = Path(__file__).with_name("dagster.yaml")  # settings of a new Dagster instance
