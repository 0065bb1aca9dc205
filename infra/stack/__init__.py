"""What runs moonlark on one machine: a local Ray cluster, Serve on it, an embedded Airflow."""
