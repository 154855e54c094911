"""Airflow: helpers of the DAG files, and Airflow's services on loopback (docs/airflow.md)."""

#: Environment variable with the lake of the DAGs.
LAKE_VARIABLE = "TOKENLAKE_LAKE"
#: Environment variable with the folder of DAG files, for an installation without the repository's `dags/`.
DAGS_VARIABLE = "TOKENLAKE_DAGS"
#: Tag of Tokenlake's DAGs.
TAG = "tokenlake"
