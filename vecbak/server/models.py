"""What requests may say, and the shapes that OpenAPI shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, model_validator

_STRICT = ConfigDict(extra="forbid", strict=True)

TASK_ID = r"^[A-Za-z0-9_-]{1,128}$"
TaskId = Annotated[str, Path(pattern=TASK_ID, description="Names the task and its folder.")]
Collections = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=1000)]
TaskIdField = Annotated[str, Field(pattern=TASK_ID)]


class VectorOptions(BaseModel):
    """What becomes of the vectors just before training_load; counts for complete runs and for training_load alone."""

    model_config = _STRICT

    backup_vector_tables: bool = Field(False, description="Back up the vector tables.")
    truncate_vector_tables: bool = Field(False, description="And empty truncate_tables; implies the backup.")
    collections: Collections = Field([], description="Only these of LangChain's collections, and their embeddings.")
    skip_training: bool = Field(False, description="Do not run training_load; the vectors are managed all the same.")


class ExecuteRequest(VectorOptions):
    """A run of the workflow, or of one of its steps."""

    execution_mode: Literal["complete", "step"] = Field("complete", description="The whole workflow, or one step.")
    step_name: str | None = Field(
        None,
        max_length=200,
        description="With `step`: one of the configuration's steps.",
        examples=["ddl_generation", "qa_generation", "sql_validation", "training_load"],
    )
    vector_options: VectorOptions | None = Field(None, description="The vector options may stand in here instead.")

    @model_validator(mode="after")
    def _check(self) -> ExecuteRequest:
        if self.execution_mode == "step" and not self.step_name:
            raise ValueError("execution_mode `step` needs a step_name")
        if self.execution_mode == "complete" and self.step_name is not None:
            raise ValueError("step_name needs execution_mode `step`")
        nested = self.vector_options
        for name in VectorOptions.model_fields:
            both = nested is not None and name in self.model_fields_set & nested.model_fields_set
            if both and getattr(self, name) != getattr(nested, name):
                raise ValueError(f"{name} is given twice, and differs")
        return self

    def wanted_collections(self) -> tuple[str, ...]:
        """The collections, wherever they stand."""
        return tuple(self.collections or (self.vector_options.collections if self.vector_options else ()))

    def wants(self, name: str) -> bool:
        """A vector option, wherever it stands."""
        return bool(getattr(self, name) or (self.vector_options and getattr(self.vector_options, name)))


class BackupRequest(BaseModel):
    """A backup, and a truncate if asked."""

    model_config = _STRICT

    task_id: TaskIdField | None = Field(None, description="Whose folder it goes into; absent: a new one.")
    truncate_vector_tables: bool = Field(False, description="Empty truncate_tables after the backup was verified.")
    collections: Collections = Field([], description="Only these of LangChain's collections, and their embeddings.")


class RestoreRequest(BaseModel):
    """A restore, in one transaction."""

    model_config = _STRICT

    backup_id: Annotated[str, Field(pattern=TASK_ID, description="An id, or `latest`.")]
    mode: Literal["error", "replace", "append", "skip-existing"] = Field(
        "error", description="What becomes of rows that are there already."
    )
    task_id: TaskIdField | None = Field(None, description="Look in this task's folder alone.")
    collections: Collections = Field([], description="Only these of the backup's, whatever the others have become.")


class ProblemDocument(BaseModel):
    """A failure (RFC 9457), with the message and the hint of the command line."""

    type: str
    title: str
    status: int
    detail: str
    hint: str
    exit_code: int | None = Field(None, description="What the command line would have ended with.")
    errors: list[dict[str, str]] | None = Field(None, description="What is wrong with the request, field by field.")
    result: dict[str, Any] | None = Field(None, description="How far the operation came.")


class Health(BaseModel):
    """The server answers."""

    status: str
    version: str


class Accepted(BaseModel):
    """An operation that has begun; ask at `location` how far it is."""

    task_id: str
    state: str
    location: str


class StepState(BaseModel):
    """One step: pending, running, done, failed or skipped."""

    name: str
    status: str
    exit_code: int | None = None
    duration: float = 0.0
    error: str | None = None


class TaskState(BaseModel):
    """What is known of a task: of what runs in it, or else of what ran last."""

    task_id: str
    state: Literal["running", "completed", "failed", "interrupted", "unknown"]
    operation: str | None = Field(None, description="execute, backup or restore.")
    execution_mode: str | None = None
    step_name: str | None = None
    current_step: str | None = None
    steps: list[StepState] = []
    progress: dict[str, dict[str, Any]] = Field({}, description="Rows copied, by table.")
    warnings: list[str] = []
    errors: list[str] = []
    result: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


class ExecuteAnswer(BaseModel):
    """What a run came to."""

    success: bool
    task_id: str
    execution_mode: str
    step_name: str | None
    result: dict[str, Any] = Field(description="`workflow_state` and `vector_management`.")
    warnings: list[str]


class Backups(BaseModel):
    """Backups, newest first."""

    task_id: str | None = None
    backups: list[dict[str, Any]]
