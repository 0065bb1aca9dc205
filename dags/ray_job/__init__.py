"""Run a Ray job as an Airflow task: one job, whatever is killed, and only success is success."""
