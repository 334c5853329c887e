/* The loss of each step, before its update, of raisin and of TRL.
   raisin sql --pipeline trl "$(cat pipelines/trl/losses.sql)" */
select s.step, round(s.loss, 5) as raisin, round(l.loss, 5) as trl, round(abs(s.loss - l.loss), 6) as difference
from tuned.steps s
join replayed.losses l on l.step = s.step
order by s.step
