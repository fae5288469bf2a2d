"""The star where analysts query it. What every engine is asked to do is in `contract.py`, how a load goes in `load.py`."""
