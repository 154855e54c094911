"""Airflow: what the DAG files share, and services of our own on loopback (docs/airflow.md)."""

#: The environment's name of the lake that the DAGs work on.
LAKE_VARIABLE = "TOKENLAKE_LAKE"
#: The environment's name of the folder of DAG files, for an installation without the repository's `dags/`.
DAGS_VARIABLE = "TOKENLAKE_DAGS"
#: What Tokenlake's DAGs are tagged with.
TAG = "tokenlake"
