"""When: the Airflow DAGs. They name jobs as strings; parsing one loads neither Ray nor torch."""
