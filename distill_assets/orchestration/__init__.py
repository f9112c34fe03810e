"""What happens without a click: jobs, conditions, sensors, retraining, lost runs, alerts."""
