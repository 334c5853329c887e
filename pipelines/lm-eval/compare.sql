/* The accuracy of both programs, and the number of questions with the same answer.
   raisin sql --pipeline lm-eval "$(cat pipelines/lm-eval/compare.sql)" */
select count(*) as questions, avg(s.acc::int) as raisin_acc, avg(h.acc::int) as harness_acc,
    avg(s.acc_norm::int) as raisin_acc_norm, avg(h.acc_norm::int) as harness_acc_norm,
    sum((s.chosen = h.chosen)::int) as same_answers
from scores.items s
join harness.answers h on h.id = s.id
