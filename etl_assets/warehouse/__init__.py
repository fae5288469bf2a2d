"""The star where analysts query it. How a warehouse is loaded is in `etl_assets/resources/warehouse.py`."""
