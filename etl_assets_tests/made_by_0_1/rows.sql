-- What the source held when version 0.1 took batch 1, and what changed before it took batch 2 (from the line CHANGES on).

INSERT INTO address SELECT n, 'Line ' || n, CASE WHEN n % 2 = 0 THEN '' END, CASE n WHEN 3 THEN 'Zoë "the" district, 5' END,
    'City ' || n, '0' || n, 'Country ' || n % 2, '0', '2022-11-03 14:20:49.962', '2022-11-03 14:20:49.962'
    FROM generate_series(1, 5) n;
INSERT INTO currency SELECT n, code, '2022-11-03 14:20:49.962', '2022-11-03 14:20:49.962'
    FROM unnest('{GBP,USD,EUR}'::text[]) WITH ORDINALITY AS c (code, n);
INSERT INTO department SELECT n, 'Department ' || n, 'Leeds', NULL, '2022-11-03 14:20:49.962', '2022-11-03 14:20:49.962'
    FROM generate_series(1, 2) n;
INSERT INTO payment_type SELECT n, name::"PaymentTypeName", '2022-11-03 14:20:49.962', '2022-11-03 14:20:49.962'
    FROM unnest('{SALES_RECEIPT,SALES_REFUND,PURCHASE_PAYMENT,PURCHASE_REFUND}'::text[]) WITH ORDINALITY AS p (name, n);
INSERT INTO design SELECT n, '2022-11-03 14:20:49.962', 'Design ' || n, '/usr', n || '.json', '2022-11-03 14:20:49.962'
    FROM generate_series(1, 4) n;
INSERT INTO staff SELECT n, 'First ' || n, 'Last ' || n, 1 + n % 2, 's' || n || '@example.com', '2022-11-03 14:20:51.563',
    '2022-11-03 14:20:51.563' FROM generate_series(1, 4) n;
INSERT INTO counterparty SELECT n, 'Party ' || n, n, 'C ' || n, NULL, '2022-11-03 14:20:51.563', '2022-11-03 14:20:51.563'
    FROM generate_series(1, 4) n;
INSERT INTO sales_order SELECT n, timestamp '2023-01-01 09:00' + n * interval '1 day', '2023-02-01', 1 + n % 4, 1 + n % 4,
    1 + n % 4, 100 * n, 2.05 * n, 1 + n % 3, '2023-02-0' || n, '2023-02-1' || n, 1 + n % 5 FROM generate_series(1, 9) n;
INSERT INTO purchase_order SELECT n, timestamp '2023-01-01 10:00' + n * interval '1 day', '2023-02-01', 1 + n % 4, 1 + n % 4,
    'ITEM' || n, 10 * n, 9.99 * n, 1 + n % 3, '2023-02-0' || n, '2023-02-1' || n, 1 + n % 5 FROM generate_series(1, 6) n;
INSERT INTO transaction SELECT n, 'SALE', n, NULL, '2023-01-05', '2023-01-05' FROM generate_series(1, 9) n;
INSERT INTO transaction SELECT 9 + n, 'PURCHASE', NULL, n, '2023-01-05', '2023-01-05' FROM generate_series(1, 6) n;
INSERT INTO payment SELECT n, '2023-01-06', '2023-01-06', n, 1 + n % 4, 12.34 * n, 1 + n % 3, CASE WHEN n < 10 THEN 1 ELSE 3 END,
    n % 2 = 0, '2023-03-' || lpad(n::text, 2, '0'), 10000000 + n, 20000000 + n FROM generate_series(1, 15) n;

-- CHANGES

UPDATE sales_order SET units_sold = 7, last_updated = '2023-03-01' WHERE sales_order_id IN (2, 3);
UPDATE address SET city = 'Elsewhere' WHERE address_id = 2;
UPDATE staff SET department_id = 1 WHERE staff_id = 1;
DELETE FROM payment WHERE payment_id = 5;
INSERT INTO payment SELECT 16, '2023-03-02', '2023-03-02', 5, 1, 99.99, 2, 1, true, '2023-03-02', 1, 2;
