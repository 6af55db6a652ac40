"""The result of a completed job: its value, table, parameters or model, the history, and exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjob.common.checks import checked_methods
from fedjob.common.errors import WrongResult
from fedjob.common.notebooks.report import Report
from fedjob.data.preprocessing import build_steps
from fedjob.data.preprocessing.base import Step
from fedjob.data.preprocessing.learning import completed
from fedjob.protocols.analytics.cox import CoxRegression
from fedjob.protocols.analytics.survival.breslow import predicted_survival
from fedjob.researcher.results.export import export, save_as
from fedjob.researcher.results.named_items import NamedItems
from fedjob.researcher.results.result_folder import ResultFolder, read_tensors
from fedjob.researcher.results.result_summary import metrics_table, report_of, tables_of
from fedjob.researcher.simulation.profile import STAGES, load_profile
from fedjob.researcher.storage.deployment import frozen_file, model_files
from fedjob.researcher.storage.measurements import OVERALL, Measurement, to_frame

if TYPE_CHECKING:
    import torch

    from fedjob.researcher.results.partial import Partial
    from fedjob.training_plans.base import TrainingPlan


@checked_methods
class JobResult(ResultFolder):
    """The result of a completed job, read from the job's folder; `JobResult.load(folder)` needs no network."""

    @property
    def object(self) -> Any:
        """The value as an object to work with: a trained job's model; else the value."""
        return self.model() if self._manifest.kind == "params" and not self._aggregated else self.value

    @property
    def best(self) -> dict[str, torch.Tensor]:
        """The parameters that the `KeepBest` hook kept."""
        path = self._kept("best.safetensors")
        if not path.exists():
            raise WrongResult("no best round was kept: give the job hooks=[KeepBest('loss')]")
        return read_tensors(path)

    def plan(self) -> TrainingPlan:
        """Return the training plan, built, with the trained parameters in it."""
        if self._manifest.kind != "params" or self._aggregated:
            raise WrongResult("result is not a model: this job trained nothing; look at .value")
        from fedjob.training_plans.source.compilation import built_plan

        spec = self._spec
        text = self._folder.plan.read_bytes().decode()
        plan: TrainingPlan = built_plan(
            text,
            spec.plan_entry,
            spec.model_args,
            spec.training_args,
            spec.seed,
            models=model_files(spec, self._folder),
            frozen=frozen_file(spec, self._folder),
        )
        plan.set_params(self.params)
        return plan

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the whole trained model by name: what was trained, and the frozen parameters that did not travel."""
        if frozen_file(self._spec, self._folder) is None:
            return self.params
        from fedjob.parameters.frozen import whole

        return whole(self.params, self.model())

    def model(self) -> Any:
        """Return the trained model: a `torch.nn.Module`, or the scikit-learn estimator."""
        plan: Any = self.plan()
        return plan.model

    @property
    def _aggregated(self) -> bool:
        return self._spec.protocol.name == "function"

    @property
    def preprocess(self) -> list[Step]:
        """The steps that prepared the data, with what they found in the data of all nodes filled in.

        Where each dataset had a list of its own, those of the first.
        """
        declared = build_steps(next(iter(self._spec.preprocess), []))
        return completed(declared, build_steps(self._manifest.learned))

    @property
    def test(self) -> bool:
        """True for the result of a trial on few items, `Items(limit=...)`."""
        return self._spec.items.limit is not None

    # -- how it came about ----------------------------------------------------------

    @property
    def rows(self) -> tuple[Measurement, ...]:
        """Everything measured, as plain rows."""
        return tuple(self._manifest.rows)

    @property
    def last(self) -> dict[str, float]:
        """The last values over all nodes, by `metric (phase)`."""
        return _last_values(self.rows)

    @property
    def history(self) -> Any:
        """Everything measured: a DataFrame of round, phase, metric, node, value, num_examples, error."""
        return to_frame(self.rows)

    @property
    def profile(self) -> Any:
        """Where the time of a simulation went: a DataFrame of stage, seconds and what the stage is.

        Seconds of workers are added up over all of them.

        Raises:
            WrongResult: the job was no simulation, or did not end yet.
        """
        import pandas as pd

        found = load_profile(self._folder.local)
        if found is None:
            raise WrongResult("there is no profile: only simulations have one, nodes=simulate(...)")
        seconds = found["seconds"]
        rows = [
            (stage, round(float(seconds[stage]), 4), words)
            for stage, words in STAGES.items()
            if stage in seconds
        ]
        return pd.DataFrame(rows, columns=["stage", "seconds", "what"])

    @property
    def partial(self) -> Partial:
        """The last values of the nodes, and the parameters of the last committed round."""
        from fedjob.researcher.results.partial import load_partial

        return load_partial(self._folder)

    @property
    def replies(self) -> dict[int, Any]:
        """Round -> the nodes' replies, in the words of the Fed-BioMed job; their parameters are not kept."""
        from fedjob.researcher.results.partial import kept_replies

        return kept_replies(self._folder, self._spec)

    @property
    def raw(self) -> dict[int, dict[str, Any]]:
        """Round -> step -> node -> the exact body of its reply, as it came over the wire."""
        from fedjob.researcher.storage.replies import raw_replies

        return raw_replies(self._folder)

    def plot(
        self,
        what: str | Sequence[str] | None = None,
        path: str | Path | None = None,
        *,
        round: int | None = None,
        rows: Any = None,
    ) -> Any:
        """Draw the result: of training each metric over the rounds, every node thin and all together thick.

        Of a regression the coefficients, or the odds, hazard or rate ratios, with their 95 % intervals; of statistics
        the histograms; of a `KaplanMeier` the survival curves with the numbers at risk.

        Args:
            what: of training and evaluation: `"roc"` or `"calibration"`, where `test_metric` has `roc_auc`;
                `"confusion"`, where it has `confusion_matrix`; or the metrics to draw over the rounds, None for all. Of
                an analysis `"coefficients"`, `"survival"` or `"histogram"`; None for the first that it has.
            path: also save a PNG there.
            round: of the ROC curve, the calibration or the confusion matrix; None for the last one measured.
            rows: for the survival that a `CoxRegression` predicts, see `predict_survival`; at most 6. None for the
                survival at the means of all terms.

        Returns:
            A matplotlib figure.

        Raises:
            SpecError: there is nothing to draw, or no such picture; the message has those that there are.
        """
        from fedjob.researcher.results.pictures.figure import saved
        from fedjob.researcher.results.pictures.of_result import picture_of

        return saved(picture_of(self, self._folder, self._spec.protocol, what, round, rows), path)

    def predict_survival(self, rows: Any = None, times: Sequence[float] | None = None) -> Any:
        """Return the survival that a `CoxRegression` with `baseline="shared"` predicts, a DataFrame.

        Args:
            rows: a DataFrame, a map column -> value or values, or a list of such maps, with the features of the regression
                in the units in which it saw them; None for one row at the means of all terms.
            times: 0 or more; None for the times of all events.

        Returns:
            Columns `row`, the label of the row in `rows`, or `means`; `time`, `cumulative_hazard`, `survival`, and the
            95 % interval `low`, `high` of the survival (see `fedjob/protocols/analytics/survival/breslow.py`).

        Raises:
            WrongResult: the result is that of no Cox regression.
            SpecError: it has no shared baseline; a feature is missing, no number, or of an unknown category; a time is
                negative.
        """
        if self._spec.protocol.name != CoxRegression.name:
            raise WrongResult(
                f"result is that of {self._spec.protocol.name}: survival is predicted by a CoxRegression with "
                'baseline="shared"; a KaplanMeier has curves in .tables["survival"]'
            )
        return predicted_survival(self.value, rows, times)

    # -- exports -------------------------------------------------------------------

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the result to a file in the format that its name says, and return its path.

        A text file beside it, `path.txt`, says whom the result is about.

        Args:
            path: parameters as `.safetensors`, the frozen ones of the model among them; a table as `.csv`, `.parquet`, `.json` or `.mpk`; any other value as
                `.json` or `.mpk`. Without an ending the first of these, msgpack for a value. In a folder it is
                named `model.safetensors`, `table.csv` or `value.mpk`.
            force: replace what is there.

        Raises:
            SpecError: the file exists already, or a result of this kind can't be saved in that format.
            ObjectCorrupt: the kept file is not the one that the job ended in.
        """
        return save_as(self, Path(path).expanduser(), force=force, state=self._whole_state())

    def _whole_state(self) -> dict[str, torch.Tensor] | None:
        """Return all parameters of the model, where the kept file holds those alone that were trained; else None."""
        has_frozen = self._manifest.kind == "params" and frozen_file(self._spec, self._folder) is not None
        return self.state_dict() if has_frozen else None

    def export(
        self, path: str | Path, format: str = "state_dict", *, example: Any = None, force: bool = False
    ) -> Path:
        """Write the trained model for programs without fedjob.

        Args:
            path: of the file; `state_dict` puts instructions beside it.
            format: `state_dict` (safetensors) or `onnx`.
            example: for `onnx`: inputs for the model, as a tensor or a tuple of them.
            force: replace what is there.

        Raises:
            SpecError: the format is unknown, the model can't be exported so, or something is there already.
            MissingPackage: a package is missing, the message names it. It is an ImportError.
        """
        target = Path(path).expanduser()
        return export(
            self, self.model, target, format, example=example, force=force, state=self._whole_state()
        )

    # -- to be read ------------------------------------------------------------------

    @property
    def tables(self) -> dict[str, Any]:
        """The tables of an analysis, name -> DataFrame; a regression has its ratios, too, with their 95 % intervals.

        Those are `odds_ratios`, `hazard_ratios` or `rate_ratios`. Empty for a result without tables.
        """
        found = {} if self._trains else tables_of(self._opened, self._spec.protocol.name)
        return NamedItems(found, "result.tables")

    def summary(self) -> Report:
        """Return the result as a report to read: of a regression its coefficients, of training the last metrics.

        It prints aligned, a notebook shows it as tables, and `to_markdown()` and `to_latex()` are for papers.
        """
        if self._trains:
            measured = metrics_table(self.rows)
            return Report(
                title=f"Result after {self._manifest.rounds} rounds",
                tables=[] if measured is None else [measured],
                about=self.about,
            )
        protocol = self._spec.protocol
        return report_of(self._opened, protocol.name, protocol.config, self.about)

    def to_markdown(self) -> str:
        """Return the tables of the summary as Markdown."""
        return self.summary().to_markdown()

    def to_latex(self) -> str:
        """Return the tables of the summary as LaTeX, with the rules of the package booktabs."""
        return self.summary().to_latex()

    @property
    def _trains(self) -> bool:
        return self._manifest.kind == "params"

    @property
    def _opened(self) -> Any:
        """What the tables are of: a table or a value."""
        return self.table.dataframe if self.kind == "table" else self.value

    def __repr__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def _last_values(rows: tuple[Measurement, ...]) -> dict[str, float]:
    return {f"{row.metric} ({row.phase})": row.value for row in rows if row.node == OVERALL}
