"""Where the index lies, and the recall target that is asked for."""

from __future__ import annotations

from pydantic import BaseModel

from ..api import DBCaseConfig, DBConfig, MetricType

_METRICS = {MetricType.L2: "l2", MetricType.IP: "ip", MetricType.COSINE: "cosine"}


class AnnserveConfig(DBConfig):
    """Folder of rows and index, on the disk that is to be measured."""

    folder: str = "/tmp/annserve-vdbbench"

    def to_dict(self) -> dict:
        return {"folder": self.folder}


class AnnserveCaseConfig(BaseModel, DBCaseConfig):
    """Metric, options of the build, and the recall target of searches."""

    metric_type: MetricType | None = None
    ram: str = "25%"
    recall_target: float = 0.95

    def index_param(self) -> dict:
        return {"metric": _METRICS[self.metric_type], "ram": self.ram}

    def search_param(self) -> dict:
        return {"recall_target": self.recall_target}
