"""A project without a database: sales of trading cards and exchange rates, both from REST APIs.

    ETL_PROJECT=etl_assets.cards CARDS_URL=… RATES_URL=… CARDS_KEY=… etl fetch

It shows how APIs are declared, and how a report states amounts of several currencies in one. A server of both APIs on this
machine ships with it, and plays their faults if it is asked to:

    python -m etl_assets.stand_ins.web_api 8765 [--faults]
"""

from etl_assets.project import Options

OPTIONS = Options(workbook="Trading cards")
