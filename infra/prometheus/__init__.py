"""What Prometheus is told: rules with their tests, a scrape configuration, and a check of both.

Replicas tell what `serve.metric_names` names, through Ray. HAProxy, which stands before them, has
an exporter of its own, scraped by the job `moonlark-proxy`.
"""

PROXY_METRICS = {
    "up": ("job",),
    **dict.fromkeys(
        (
            "haproxy_backend_active_servers",
            "haproxy_backend_current_queue",
            "haproxy_backend_current_sessions",
            "haproxy_backend_http_requests_total",
            "haproxy_backend_retry_warnings_total",
        ),
        ("proxy",),
    ),
    "haproxy_backend_http_responses_total": ("proxy", "code"),
    "haproxy_server_http_responses_total": ("proxy", "server", "code"),
}
"""What rules and dashboards ask for of it, with labels. A backend is `http-` and the app's name."""
