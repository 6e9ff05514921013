"""The local shop's tables (SQLite). A unit is one piece that was sold, named within its order."""

from typing import Final

from agents.desks import EFFECTS

SCHEMA: Final = f"""{EFFECTS}
create table if not exists products(
  sku text primary key, title text not null, attributes text not null,
  price_cents integer not null check(price_cents > 0),
  cost_cents integer not null check(cost_cents >= 0),
  floor_cents integer not null, ceiling_cents integer not null,
  currency text not null, stock integer not null check(stock >= 0),
  seconds integer not null default 0, copy text not null default '',
  check(floor_cents <= ceiling_cents));
create table if not exists units(
  order_id text not null, unit text not null, sku text not null references products(sku),
  paid_cents integer not null check(paid_cents >= 0), delivered text not null,
  state text not null default 'sold', payment text not null default '',
  primary key(order_id, unit));
create table if not exists movements(
  order_id text not null, unit text not null, at real not null, what text not null,
  key text not null references effects(key),
  foreign key(order_id, unit) references units(order_id, unit));
create index if not exists movements_of_unit on movements(order_id, unit, at);
create table if not exists experiments(
  key text primary key references effects(key), sku text not null references products(sku),
  old_cents integer not null, new_cents integer not null, needed integer not null,
  looks integer not null, state text not null default 'running',
  reason text not null default '');
create unique index if not exists one_experiment on experiments(sku) where state = 'running';
create table if not exists traffic(
  sku text not null, experiment text not null, arm text not null,
  visitors integer not null check(visitors >= 0), buyers integer not null,
  primary key(sku, experiment, arm), check(buyers between 0 and visitors));
"""
