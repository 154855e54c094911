# The job image: Tokenlake, its DAGs and Airflow, from the lock. docker-compose.yml runs all of Airflow from it.
FROM python:3.11-slim AS build
ARG EXTRAS=airflow,cpu,feast,redis,train
WORKDIR /src
RUN python -m venv /opt/tokenlake
ENV PATH=/opt/tokenlake/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.lock ./
RUN pip install --no-cache-dir -c requirements.lock uv
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY platform platform
COPY models models
COPY kernels kernels
COPY sql sql
# With bytecode: the user of the image cannot write it, so every process would compile what it imports.
RUN uv pip install --no-cache --compile-bytecode -c requirements.lock --build-constraint requirements.lock ".[$EXTRAS]"

FROM python:3.11-slim
# What is C and C++ (token store, point-in-time join, CPU kernels) compiles on first use, for this CPU.
RUN apt-get update && apt-get install -y --no-install-recommends g++ libgomp1 && rm -rf /var/lib/apt/lists/*
ARG UID=1000
RUN useradd --uid "$UID" --create-home tokenlake && mkdir /lake /airflow && chown tokenlake /lake /airflow
COPY --from=build /opt/tokenlake /opt/tokenlake
COPY dags /opt/dags
ENV PATH=/opt/tokenlake/bin:$PATH AIRFLOW_HOME=/airflow TOKENLAKE_DAGS=/opt/dags OMP_WAIT_POLICY=PASSIVE
USER tokenlake
WORKDIR /home/tokenlake
ENTRYPOINT ["tokenlake"]
CMD ["--help"]
