"""What memory's recall is measured beside, on the same texts and the same MiniLM vectors: FAISS,
and Milvus Lite as its guide has one use it (dense, BM25 function, hybrid by reciprocal ranks)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from memory.embed import DIMENSION, Vectors

_LONGEST: Final = 60_000


def faiss_flat(vectors: Vectors, asked: Vectors, k: int) -> list[list[int]]:
    """Positions of the k nearest by exact inner product."""
    import faiss  # type: ignore[import-untyped]

    index = faiss.IndexFlatIP(DIMENSION)
    index.add(vectors)
    _, found = index.search(asked, k)
    return [[int(position) for position in row if position >= 0] for row in found]


class Milvus:
    """One collection of texts in a Milvus Lite file: dense vectors and Milvus' own BM25."""

    def __init__(self, path: Path) -> None:
        from pymilvus import MilvusClient

        self._client = MilvusClient(uri=str(path))

    def fill(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Make the collection anew with these texts."""
        from pymilvus import DataType, Function, FunctionType

        if self._client.has_collection("peer"):
            self._client.drop_collection("peer")
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("text", DataType.VARCHAR, max_length=_LONGEST, enable_analyzer=True)
        schema.add_field("dense", DataType.FLOAT_VECTOR, dim=DIMENSION)
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function(
                name="bm25", function_type=FunctionType.BM25, input_field_names=["text"],
                output_field_names=["sparse"],
            )
        )  # fmt: skip
        index = self._client.prepare_index_params()
        index.add_index("dense", index_type="FLAT", metric_type="COSINE")
        index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
        self._client.create_collection("peer", schema=schema, index_params=index)
        rows = [
            {"id": n, "text": text, "dense": vector.tolist()}
            for n, (text, vector) in enumerate(zip(texts, vectors, strict=True))
        ]
        self._client.insert("peer", rows)
        # one file: its BM25 then knows all of the texts, which is the best it can be
        self._client.flush("peer")
        self._client.load_collection("peer")

    def dense(self, vector: Vectors, k: int) -> list[int]:
        """Positions of the k nearest by cosine."""
        return self._search("dense", vector.tolist(), k)

    def bm25(self, question: str, k: int) -> list[int]:
        """Positions of the k best by Milvus' BM25 with its standard analyzer."""
        return self._search("sparse", question, k)

    def hybrid(self, question: str, vector: Vectors, k: int) -> list[int]:
        """Positions of the k best by Milvus' default fusion, reciprocal ranks with its k of 60."""
        from pymilvus import AnnSearchRequest, RRFRanker

        requests = [
            AnnSearchRequest([vector.tolist()], "dense", {"metric_type": "COSINE"}, limit=k),
            AnnSearchRequest([question], "sparse", {"metric_type": "BM25"}, limit=k),
        ]
        (found,) = self._client.hybrid_search("peer", requests, ranker=RRFRanker(), limit=k)
        return [int(hit["id"]) for hit in found]

    def close(self) -> None:
        """Let go of the file's client."""
        self._client.close()

    def _search(self, field: str, asked: Any, k: int) -> list[int]:
        (found,) = self._client.search("peer", data=[asked], anns_field=field, limit=k)
        return [int(hit["id"]) for hit in found]
