"""What the star of the project that ships must hold, in SQL written from the definition of ToteSys."""

from etl_assets_tests.oracle import Model

_AUDIT = """created_at::date AS created_date, created_at::time AS created_time,
    last_updated::date AS last_updated_date, last_updated::time AS last_updated_time"""
TOTESYS = Model(
    project="etl_assets.totesys",
    tables=(
        "address",
        "counterparty",
        "currency",
        "department",
        "design",
        "payment",
        "payment_type",
        "purchase_order",
        "sales_order",
        "staff",
        "transaction",
    ),
    facts={
        "fact_sales_order": ("sales_order", "sales_record_id"),
        "fact_purchase_order": ("purchase_order", "purchase_record_id"),
        "fact_payment": ("payment", "payment_record_id"),
    },
    star={
        "dim_staff": """
        SELECT staff_id, first_name, last_name, department_name, location, email_address
        FROM staff LEFT JOIN department USING (department_id)""",
        "dim_location": """
        SELECT address_id AS location_id, address_line_1, address_line_2, district, city, postal_code, country, phone
        FROM address""",
        "dim_currency": """
        SELECT currency_id, currency_code, CASE currency_code WHEN 'GBP' THEN 'Pound Sterling'
            WHEN 'USD' THEN 'US Dollar' WHEN 'EUR' THEN 'Euro' ELSE currency_code END AS currency_name
        FROM currency""",
        "dim_design": "SELECT design_id, design_name, file_location, file_name FROM design",
        "dim_counterparty": """
        SELECT counterparty_id, counterparty_legal_name,
            address_line_1 AS counterparty_legal_address_line_1,
            address_line_2 AS counterparty_legal_address_line_2, district AS counterparty_legal_district,
            city AS counterparty_legal_city, postal_code AS counterparty_legal_postal_code,
            country AS counterparty_legal_country, phone AS counterparty_legal_phone_number
        FROM counterparty LEFT JOIN address ON address_id = legal_address_id""",
        "dim_payment_type": "SELECT payment_type_id, payment_type_name FROM payment_type",
        "dim_transaction": "SELECT transaction_id, transaction_type, sales_order_id, purchase_order_id FROM transaction",
        "fact_sales_order": f"""
        SELECT sales_order_id, {_AUDIT}, staff_id AS sales_staff_id, counterparty_id, units_sold, unit_price,
            currency_id, design_id, agreed_payment_date::date AS agreed_payment_date,
            agreed_delivery_date::date AS agreed_delivery_date, agreed_delivery_location_id
        FROM sales_order""",
        "fact_purchase_order": f"""
        SELECT purchase_order_id, {_AUDIT}, staff_id, counterparty_id, item_code, item_quantity, item_unit_price,
            currency_id, agreed_delivery_date::date AS agreed_delivery_date,
            agreed_payment_date::date AS agreed_payment_date, agreed_delivery_location_id
        FROM purchase_order""",
        "fact_payment": f"""
        SELECT payment_id, {_AUDIT}, transaction_id, counterparty_id, payment_amount, currency_id, payment_type_id,
            paid, payment_date::date AS payment_date
        FROM payment""",
    },
    used_dates="""
    SELECT unnest(ARRAY[created_at::date, last_updated::date, agreed_delivery_date::date, agreed_payment_date::date])
    FROM sales_order
    UNION SELECT unnest(ARRAY[created_at::date, last_updated::date, agreed_delivery_date::date,
        agreed_payment_date::date]) FROM purchase_order
    UNION SELECT unnest(ARRAY[created_at::date, last_updated::date, payment_date::date]) FROM payment""",
)
