"""The daily jobs: one function a job."""
