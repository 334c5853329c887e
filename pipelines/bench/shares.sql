/* What each method selected: for each kind of rows the number and the share of the selected rows, and the number of
   distinct ones. `variant` names the method and the seed. A pool that all variants share has no variant.
   raisin sql --pipeline bench-mixed-gsm8k "$(cat pipelines/bench/shares.sql)" */
select s.variant, k.response as kind, count(*) as selected,
    round(1.0 * count(*) / sum(count(*)) over (partition by s.variant), 3) as share,
    count(distinct s.id) as distinct_rows
from tuned.selection s
join pool.instructions i on i.id = s.id and (i.variant is null or concat(',', s.variant, ',') like concat('%,', i.variant, ',%'))
join kinds.instructions k on k.line = i.line and k.variant is not distinct from i.variant
group by s.variant, k.response
order by s.variant, selected desc
