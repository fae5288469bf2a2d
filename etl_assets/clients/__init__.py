"""How outside services are talked to: BigQuery, Google Sheets, stores of secrets. Not here: what is asked of them."""
