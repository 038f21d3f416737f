"""The steps of config/workflow.yaml: small, but real. Yours do the same with your own schema, questions and embeddings.

Needs langchain-postgres and psycopg; $VECBAK_DSN says where the database is, $VECBAK_OUTPUT_DIR where the task's files are.
"""

import json
import os
import sys
from pathlib import Path

FOLDER = Path(os.environ["VECBAK_OUTPUT_DIR"])


def ddl_generation():
    """Write down what there is to ask about."""
    (FOLDER / "schema.ddl").write_text("CREATE TABLE road_toll (road text, paid_at timestamptz, amount numeric);\n")


def qa_generation():
    """Questions with the SQL that answers them."""
    pairs = [
        {
            "question": f"What was paid on the A{road}?",
            "sql": f"SELECT sum(amount) FROM road_toll WHERE road = 'A{road}'",
        }
        for road in range(1, 41)
    ]
    (FOLDER / "qa_pairs.json").write_text(json.dumps(pairs, indent=1))


def sql_validation():
    """Refuse what is no query."""
    pairs = json.loads((FOLDER / "qa_pairs.json").read_text())
    wrong = [pair for pair in pairs if not pair["sql"].startswith("SELECT ")]
    if wrong:
        sys.exit(f"{len(wrong)} pairs are no queries")


def training_load():
    """Fill LangChain's tables; the old vectors are saved, and gone if that was asked for."""
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_postgres import PGVector

    pairs = json.loads((FOLDER / "qa_pairs.json").read_text())
    store = PGVector(
        DeterministicFakeEmbedding(size=64),
        collection_name="question_answers",
        connection=os.environ["VECBAK_DSN"].replace("postgresql://", "postgresql+psycopg://", 1),
        use_jsonb=True,
    )
    store.add_texts([pair["question"] for pair in pairs], metadatas=[{"sql": pair["sql"]} for pair in pairs])
    print(f"loaded {len(pairs)} pairs")


STEPS = {step.__name__: step for step in (ddl_generation, qa_generation, sql_validation, training_load)}

if __name__ == "__main__":
    STEPS[sys.argv[1]]()
