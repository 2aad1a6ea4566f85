"""Upload a usage log from Python, and see with pandas why rows failed.

Cell by cell in a notebook, or as a script:

    python docs/failures_by_reason.py sample_data/usage_with_errors.csv http://127.0.0.1:8000/api/v1
"""

# %% Upload. Nothing is printed; the summary says what happened.
import sys

import pandas as pd

import uploader

log, base_url = sys.argv[1:]
summary = uploader.upload(log, base_url=base_url)
[file] = summary.files
if file.total is None or file.results is None:
    sys.exit(f"not done: {file.error}")
print(f"{file.total.accepted.rows} of {file.total.came_in.rows} rows accepted, exit code {summary.exit_code}")

# %% The results, one line a row: the input's columns as they were, then upload_row, upload_status and so on.
results = uploader.read_results(file.results)
results["units"] = pd.to_numeric(results["total_usage"], errors="coerce")

# %% Why rows failed, and what that means for sending them again.
failed = results[results["upload_status"] == "failed"]
print(failed.groupby(["upload_reason", "upload_replay"]).agg(rows=("upload_row", "size"), units=("units", "sum")))

# %% The first of each reason.
columns = ["upload_row", "tenant_id", "meter_id", "total_usage", "upload_reason", "upload_detail"]
print(failed.groupby("upload_reason").head(1)[columns].to_string(index=False))
