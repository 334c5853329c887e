/* The synthetic pools: for each setting of the knobs the mean loss of each method over the seeds, and its difference to
   random in the same pool, with the standard error over seeds. The report has no baseline if knobs are swept.
   raisin sql --pipeline bench-quickstart "$(cat pipelines/bench/knobs.sql)" */
select m.relevant, m.wrong, m.method, count(*) as seeds, round(avg(m.loss), 4) as mean_loss,
    round(avg(m.loss - r.loss), 4) as difference, round(stddev(m.loss - r.loss) / sqrt(count(*)), 4) as standard_error,
    round(avg(m.exact_match), 4) as mean_exact_match
from scores.metrics m
join scores.metrics r on r.method = 'random' and r.relevant = m.relevant and r.wrong = m.wrong and r.seed = m.seed
group by m.relevant, m.wrong, m.method
order by m.relevant, m.wrong, mean_loss
