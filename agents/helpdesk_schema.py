"""The help-desk's tables (SQLite). Every effect has a row in `effects` and one in its own table.

`drafts` are words that no effect has sent yet. What went out before there were threads is taken
into them when a file is opened."""

from typing import Final

SCHEMA: Final = """
create table if not exists customers(
  id text primary key, name text not null, email text not null, phone text not null,
  address text not null, since text not null);
create table if not exists orders(
  id text primary key, customer text not null references customers(id), item text not null,
  total_cents integer not null check(total_cents >= 0), currency text not null,
  status text not null, ordered text, shipped text, expected text, delivered text, tracking text,
  refunded_cents integer not null default 0 check(refunded_cents between 0 and total_cents));
create index if not exists orders_of_customer on orders(customer, ordered);
create table if not exists tickets(
  id text primary key, customer text not null references customers(id), subject text not null,
  body text not null, received text not null, status text not null default 'open');
create index if not exists tickets_of_customer on tickets(customer, received);
create table if not exists effects(
  key text primary key, kind text not null, ticket text not null references tickets(id),
  payload text not null, receipt text not null, done_at real not null);
create table if not exists outbox(
  key text primary key references effects(key), ticket text not null, text text not null);
create table if not exists refunds(
  key text primary key references effects(key), ticket text not null, order_id text not null,
  amount_cents integer not null check(amount_cents > 0));
create table if not exists escalations(
  key text primary key references effects(key), ticket text not null, reason text not null,
  summary text not null);
create table if not exists queues(
  key text primary key references effects(key), ticket text not null, queue text not null);
create table if not exists messages(
  seq integer primary key autoincrement, id text not null unique,
  ticket text not null references tickets(id), author text not null, by text not null,
  text text not null, at real not null);
create index if not exists messages_of_ticket on messages(ticket, seq);
create table if not exists drafts(
  id text primary key, ticket text not null references tickets(id), by text not null,
  text text not null);
create table if not exists holders(
  ticket text primary key references tickets(id), by text not null, at real not null);
create table if not exists ratings(
  ticket text primary key references tickets(id),
  score integer not null check(score between 1 and 5), text text not null, at real not null);
insert or ignore into messages(id, ticket, author, by, text, at)
  select o.key, o.ticket, 'agent', '', o.text, e.done_at
  from outbox o join effects e on e.key = o.key order by o.rowid;
"""
