# Ray with moonlark: head, worker, replicas and the steps of the night, on CPUs.
#     docker build -f infra/docker/ray.Dockerfile -t moonlark-ray:0.1.0 .
# Pin the base by digest once it was pulled: docker buildx imagetools inspect python:3.11.14-slim-bookworm
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/moonlark
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY sql sql
COPY ray_jobs ray_jobs
COPY serve serve
COPY dags dags
COPY infra infra
RUN /opt/moonlark/bin/pip install --no-cache-dir -c constraints.txt '.[ray,cpu]'
# Of processors like this one; others compile when they load their first generation.
ENV NUMBA_CACHE_DIR=/src/kernels
WORKDIR /opt/moonlark
RUN /opt/moonlark/bin/python -m ray_jobs.compile_kernels

FROM python:3.11.14-slim-bookworm
# libgomp: torch and faiss. procps: Ray's reports of processes. curl, psql: the on-call's shell.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends curl libgomp1 postgresql-client procps \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 moonlark \
    && useradd --uid 10001 --gid moonlark --create-home --shell /usr/sbin/nologin moonlark \
    && install -d -o moonlark -g moonlark /srv/moonlark /srv/ray /srv/ray/gcs
COPY --from=build /opt/moonlark /opt/moonlark
COPY --from=build --chown=moonlark:moonlark /src/kernels /srv/moonlark/kernels
COPY infra/serve.yaml /etc/moonlark/serve.yaml
# Before Ray starts, or they do nothing: HAProxy and throughput mode, both together. No log is kept
# of HAProxy's lines, for they name users. Numerics: one thread a process, Ray runs the processes.
ENV PATH=/opt/moonlark/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    OMP_WAIT_POLICY=PASSIVE \
    OPENBLAS_NUM_THREADS=1 \
    NUMBA_CACHE_DIR=/srv/moonlark/kernels \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_worker_niceness=0 \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
    RAY_SERVE_HAPROXY_LOG_TARGET=/tmp/no-log.sock \
    RAY_SERVE_HAPROXY_TUNE_BUFSIZE=65536
WORKDIR /srv/moonlark
USER 10001:10001
CMD ["ray", "--version"]
