# Airflow with moonlark's DAGs: the base and [airflow], no torch, no faiss.
#     docker build -f infra/docker/airflow.Dockerfile -t moonlark-airflow:0.1.0 .
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
RUN /opt/moonlark/bin/pip install --no-cache-dir -c constraints.txt '.[airflow]'

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 moonlark \
    && useradd --uid 10001 --gid moonlark --create-home --shell /usr/sbin/nologin moonlark \
    && install -d -o moonlark -g moonlark /srv/airflow /srv/airflow/logs
COPY --from=build /opt/moonlark /opt/moonlark
# The triggerer does not put the DAG folder on its path: the project is installed, and this folder
# holds the same files for the DAG processor.
COPY --from=build /src/dags /srv/airflow/dags
ENV PATH=/opt/moonlark/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/srv/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/srv/airflow/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS=False \
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False
WORKDIR /srv/airflow
USER 10001:10001
ENTRYPOINT ["airflow"]
CMD ["version"]
