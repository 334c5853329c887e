-- Queries that a cluster answers as one process does. tests/cluster/main.rs compares the rows: in their order
-- where a query has ORDER BY at its end, otherwise sorted.

-- Scans of several row groups and files, with conditions and projections.
select count(*) as n, min(id) as lowest, max(id) as highest from pool.rows;
select id, prompt, label from pool.rows where id % 50000 = 7;
select label, count(*) as n from pool.rows group by label;
select label, count(*) as n, avg(length(response)) as mean from pool.rows group by label having count(*) > 100 order by n desc, label;
select count(distinct prompt) as prompts, count(distinct label) as labels from pool.rows;
select id from pool.rows where response like '%a%' order by id desc limit 20;

-- Arithmetic that does not wrap: differences of unsigned columns, sums, shifts.
select min(id) - max(id) as span, sum(id) as total, sum(id * 3 - 7) as other from pool.rows;
select label, sum(cast(id as decimal(20, 2)) / 7) as part from pool.rows group by label order by label;
select id, -id as negated, id << 3 as shifted, id - 5 as less from small.instructions where id < 4 order by variant, id;

-- Sums, deviations and quantiles of floating numbers.
select label, stddev(sqrt(id)) as deviation, avg(ln(id + 1)) as mean from pool.rows group by label;
select median(length(prompt)) as middle, percentile_cont(0.9) within group (order by length(prompt)) as high from pool.rows;
select corr(id, length(prompt)) as r, covar_pop(id, length(prompt)) as c from pool.rows;

-- Joins of every kind.
select a.label, count(*) as n from pool.rows as a join small.instructions as b on a.response = b.response group by a.label order by 1;
select b.id, a.id as other from small.instructions as b left join pool.rows as a on a.id = b.id + 299900 where b.variant = 'size=400' order by b.id, a.id;
select count(*) as n, count(a.id) as l, count(b.id) as r from small.instructions as a full join pool.rows as b on a.id + 7 = b.id and b.label <> a.label;
select count(*) as n from pool.rows as b where not exists (select 1 from small.instructions as a where a.id = b.id);
select count(*) as n, count(a.id) as l, count(b.id) as r from pool.rows as b left join (select id from small.instructions where id < 3) as a on a.id > b.id;
select count(*) as n, count(a.id) as l, count(b.id) as r from small.instructions as a full join small.instructions as b on a.id = b.id and a.variant < b.variant;
select label from pool.rows where label not in (select label from small.instructions where label <> 'wrong') group by label;
select count(*) as n from pool.rows as a where exists (select 1 from small.instructions as b where b.response = a.response and b.id > a.id % 100);
select x.label, y.label as other, count(*) as n from (select distinct label from small.instructions) as x cross join (select distinct label from small.instructions) as y group by 1, 2;

-- Subqueries, common table expressions, unions, windows.
with lengths as (select id, length(prompt) as n from pool.rows) select count(*) as n from lengths where n > (select avg(n) from lengths);
select 'pool' as name, count(*) as n from pool.rows union all select 'small', count(*) from small.instructions order by name;
select label, id, row_number() over (partition by label order by id) as place, sum(id) over (partition by label order by id) as running from small.instructions where variant = 'size=500' order by label, id limit 40;
select label, max(id) - lag(max(id)) over (order by label) as step from small.instructions group by label order by label;
select variant, array_agg(id order by id desc) as ids from small.instructions where id < 5 group by variant order by variant;

-- raisin's own functions and tables.
select junk, count(*) as n from small.quality group by junk order by junk;
select language(prompt) as l, count(*) as n, sum(words(prompt)) as w from pool.rows where id < 30000 group by 1;
select stage, kind, count(*) as n from raisin.stages group by stage, kind order by stage;
select stage, count(*) as n from history.instructions group by stage order by stage;
select variant, split, loss from scores.metrics order by variant, split;
select ('{"l": "' || label || '"}') ->> 'l' as l, count(*) as n from small.instructions group by 1 order by 1;

-- Files.
select count(*) as n, sum(id) as total from 'parts/*.parquet';
select a.word, b.number from 'words.csv' as a join 'numbers.jsonl' as b on a.number = b.number order by a.word;
