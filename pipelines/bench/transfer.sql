/* Transfer on the quickstart: the mean test loss over the seeds, and its difference to random in the same pool, for the
   policies that were learned on other pools (by size and target skills of `source`) and for the methods of `tuned`.
   With a sweep over one size only, there is no column `size`: write the size instead.
   raisin sql --pipeline bench-transfer "$(cat pipelines/bench/transfer.sql)" */
with runs as (
    select 'learned on ' || cast(size as varchar) || ' rows, ' || cast(targets as varchar) as run, seed, loss
    from transferred_scores.metrics
    union all
    select case when method = 'raise' then 'raise, ' || policy else method end, seed, loss from scores.metrics
),
random as (select seed, min(loss) as loss from scores.metrics where method = 'random' group by seed)
select run, count(distinct runs.seed) as seeds, round(avg(runs.loss), 4) as mean_loss,
    round(avg(runs.loss - random.loss), 4) as difference,
    round(stddev(runs.loss - random.loss) / sqrt(count(*)), 4) as standard_error
from runs join random on random.seed = runs.seed
group by run
order by mean_loss
