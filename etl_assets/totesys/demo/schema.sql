-- The operational database ToteSys, as its migrations (Prisma) leave it.

create type "PaymentTypeName" as enum ('SALES_RECEIPT', 'SALES_REFUND', 'PURCHASE_PAYMENT', 'PURCHASE_REFUND');
create type "TransactionType" as enum ('SALE', 'PURCHASE');

create table address (
    address_id serial not null,
    address_line_1 text not null,
    address_line_2 text,
    district text,
    city text not null,
    postal_code text not null,
    country text not null,
    phone text not null,
    created_at timestamp(3) not null default current_timestamp,
    last_updated timestamp(3) not null
);

create table counterparty (
    counterparty_id serial not null,
    counterparty_legal_name text not null,
    legal_address_id integer not null,
    commercial_contact text,
    delivery_contact text,
    created_at timestamp(3) not null default current_timestamp,
    last_updated timestamp(3) not null
);

create table currency (
    currency_id serial not null,
    currency_code varchar(3) not null,
    created_at timestamp(3) not null default current_timestamp,
    last_updated timestamp(3) not null
);

create table department (
    department_id serial not null,
    department_name text not null,
    location text,
    manager text,
    created_at timestamp(3) not null default current_timestamp,
    last_updated timestamp(3) not null
);

create table design (
    design_id serial not null,
    created_at timestamp(3) not null default current_timestamp,
    design_name text not null,
    file_location text not null,
    file_name text not null,
    last_updated timestamp(3) not null
);

create table staff (
    staff_id serial not null,
    first_name text not null,
    last_name text not null,
    department_id integer not null,
    email_address text not null,
    created_at timestamp(3) not null default current_timestamp,
    last_updated timestamp(3) not null
);

create table sales_order (
    sales_order_id serial not null,
    created_at timestamp(3) not null default current_timestamp,
    last_updated timestamp(3) not null,
    design_id integer not null,
    staff_id integer not null,
    counterparty_id integer not null,
    units_sold integer not null,
    unit_price numeric(10,2) not null,
    currency_id integer not null,
    agreed_delivery_date text not null,
    agreed_payment_date text not null,
    agreed_delivery_location_id integer not null
);

create table purchase_order (
    purchase_order_id serial not null,
    created_at timestamp(3) not null default current_timestamp,
    last_updated timestamp(3) not null,
    staff_id integer not null,
    counterparty_id integer not null,
    item_code text not null,
    item_quantity integer not null,
    item_unit_price numeric(10,2) not null,
    currency_id integer not null,
    agreed_delivery_date text not null,
    agreed_payment_date text not null,
    agreed_delivery_location_id integer not null
);

create table payment_type (
    payment_type_id serial not null,
    payment_type_name "PaymentTypeName" not null,
    created_at timestamp(3) not null default current_timestamp,
    last_updated timestamp(3) not null
);

create table payment (
    payment_id serial not null,
    created_at timestamp(3) not null default current_timestamp,
    last_updated timestamp(3) not null,
    transaction_id integer not null,
    counterparty_id integer not null,
    payment_amount numeric(10,2) not null,
    currency_id integer not null,
    payment_type_id integer not null,
    paid boolean not null,
    payment_date text not null,
    company_ac_number integer not null,
    counterparty_ac_number integer not null
);

create table transaction (
    transaction_id serial not null,
    transaction_type "TransactionType" not null,
    sales_order_id integer,
    purchase_order_id integer,
    created_at timestamp(3) not null default current_timestamp,
    last_updated timestamp(3) not null
);

-- The migration tool's own table: no part of the business, nobody reads it.
create table _prisma_migrations (
    id varchar(36) not null,
    checksum varchar(64) not null,
    finished_at timestamptz,
    migration_name varchar(255) not null,
    logs text,
    rolled_back_at timestamptz,
    started_at timestamptz not null default now(),
    applied_steps_count integer not null default 0
);

insert into _prisma_migrations (id, checksum, finished_at, migration_name, started_at, applied_steps_count) values
    ('7a6f2f6c-5d0b-4f0e-9c5e-0a4d3b1c2e11', repeat('a1', 32), '2023-10-02 08:14:07.351+00', '20231001120000_init',
     '2023-10-02 08:14:06.902+00', 1),
    ('c1f0de55-3b57-49d1-8f0a-6f8f5a9a7d42', repeat('b2', 32), '2023-10-09 10:02:41+00', '20231009095500_payment_type',
     '2023-10-09 10:02:40.115+00', 1);

-- KEYS (added after the rows when the generator loads)

alter table _prisma_migrations add constraint _prisma_migrations_pkey primary key (id);
alter table address add constraint address_pkey primary key (address_id);
alter table counterparty add constraint counterparty_pkey primary key (counterparty_id);
alter table currency add constraint currency_pkey primary key (currency_id);
alter table department add constraint department_pkey primary key (department_id);
alter table design add constraint design_pkey primary key (design_id);
alter table staff add constraint staff_pkey primary key (staff_id);
alter table sales_order add constraint sales_order_pkey primary key (sales_order_id);
alter table purchase_order add constraint purchase_order_pkey primary key (purchase_order_id);
alter table payment_type add constraint payment_type_pkey primary key (payment_type_id);
alter table payment add constraint payment_pkey primary key (payment_id);
alter table transaction add constraint transaction_pkey primary key (transaction_id);

alter table transaction add constraint transaction_sales_order_id_key unique (sales_order_id);
alter table transaction add constraint transaction_purchase_order_id_key unique (purchase_order_id);
alter table payment add constraint payment_transaction_id_key unique (transaction_id);

alter table counterparty add constraint counterparty_legal_address_id_fkey foreign key (legal_address_id)
    references address (address_id) on delete restrict on update cascade;
alter table staff add constraint staff_department_id_fkey foreign key (department_id)
    references department (department_id) on delete restrict on update cascade;
alter table sales_order add constraint sales_order_design_id_fkey foreign key (design_id)
    references design (design_id) on delete restrict on update cascade;
alter table sales_order add constraint sales_order_staff_id_fkey foreign key (staff_id)
    references staff (staff_id) on delete restrict on update cascade;
alter table sales_order add constraint sales_order_counterparty_id_fkey foreign key (counterparty_id)
    references counterparty (counterparty_id) on delete restrict on update cascade;
alter table sales_order add constraint sales_order_currency_id_fkey foreign key (currency_id)
    references currency (currency_id) on delete restrict on update cascade;
alter table sales_order add constraint sales_order_agreed_delivery_location_id_fkey foreign key (agreed_delivery_location_id)
    references address (address_id) on delete restrict on update cascade;
alter table purchase_order add constraint purchase_order_staff_id_fkey foreign key (staff_id)
    references staff (staff_id) on delete restrict on update cascade;
alter table purchase_order add constraint purchase_order_counterparty_id_fkey foreign key (counterparty_id)
    references counterparty (counterparty_id) on delete restrict on update cascade;
alter table purchase_order add constraint purchase_order_currency_id_fkey foreign key (currency_id)
    references currency (currency_id) on delete restrict on update cascade;
alter table purchase_order add constraint purchase_order_agreed_delivery_location_id_fkey foreign key (agreed_delivery_location_id)
    references address (address_id) on delete restrict on update cascade;
alter table transaction add constraint transaction_sales_order_id_fkey foreign key (sales_order_id)
    references sales_order (sales_order_id) on delete set null on update cascade;
alter table transaction add constraint transaction_purchase_order_id_fkey foreign key (purchase_order_id)
    references purchase_order (purchase_order_id) on delete set null on update cascade;
alter table payment add constraint payment_transaction_id_fkey foreign key (transaction_id)
    references transaction (transaction_id) on delete restrict on update cascade;
alter table payment add constraint payment_counterparty_id_fkey foreign key (counterparty_id)
    references counterparty (counterparty_id) on delete restrict on update cascade;
alter table payment add constraint payment_currency_id_fkey foreign key (currency_id)
    references currency (currency_id) on delete restrict on update cascade;
alter table payment add constraint payment_payment_type_id_fkey foreign key (payment_type_id)
    references payment_type (payment_type_id) on delete restrict on update cascade;
