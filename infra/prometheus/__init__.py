"""What Prometheus is told: rules with their tests, a scrape configuration, and a check of both."""
