"""The search for near-duplicates of benches/near.py with datatrove, in the present folder, on as many cores as given."""

import sys

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer


class Spaces(WordTokenizer):
    """Splits at white space: the fastest way."""

    def word_tokenize(self, text):
        return text.split()

    def sent_tokenize(self, text):
        return [text]

    def span_tokenize(self, text):
        return [(0, len(text))]


def run(pipeline, tasks, cores):
    LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=cores, logging_dir="logs", skip_completed=False).run()


def main():
    cores = int(sys.argv[1])
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    reader = JsonlReader("parts")
    run([reader, MinhashDedupSignature("signatures", config=config, language=Spaces())], cores, cores)
    run([MinhashDedupBuckets("signatures", "buckets", config=config)], 14, cores)
    run([MinhashDedupCluster("buckets", "remove", config=config)], 1, cores)
    run([reader, MinhashDedupFilter("remove"), JsonlWriter("kept", compression=None)], cores, cores)


if __name__ == "__main__":
    main()
