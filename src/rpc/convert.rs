//! Conversions between the generated types and the service types. They never panic; an error names the wrong field.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::pb;
use crate::service::{
    Activation, Alias, AnswerFormat, Base, Cadence, Comparison, Decoder, DialectError, EpochLosses, Evaluation,
    FileFormat, Form, IdError, IdempotencyKey, Initialization, Inspected, Inverted, JobError, JobId, JobSnapshot,
    JobState, LayerInspection, Loss, Matrix, ModelEntry, ModelName, ModelSpec, NamedRows, NormalizationKind,
    OptimizerKind, OptimizerSpec, Priority, Progress, ReadOptions, Regularization, RowRole, Schedule, Scored, Selector,
    ServerFiles, ServiceError, TextOptions, TrainSpec, TrainingReport, Values, Version, VersionDescription, shown,
};

/// Whether a response includes the training report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// Include the report.
    With,
    /// Leave it out, so that listings stay small.
    Without,
}

/// Page size if the request sets none.
const PAGE_DEFAULT: u32 = 100;
/// Maximum page size.
const PAGE_MAX: u32 = 1000;

// ---- names and pages ----

/// Parses the model name in `field`.
pub fn model_name(field: &'static str, text: &str) -> Result<ModelName, ServiceError> {
    text.parse().map_err(|error: IdError| ServiceError::invalid(field, error))
}

/// Parses the alias in `field`.
pub fn alias(field: &'static str, text: &str) -> Result<Alias, ServiceError> {
    text.parse().map_err(|error: IdError| ServiceError::invalid(field, error))
}

/// Parses the version number in `field`.
pub fn version_number(field: &'static str, number: u64) -> Result<Version, ServiceError> {
    Version::new(number).map_err(|error| ServiceError::invalid(field, error))
}

/// Parses a job id. An invalid id is reported as an unknown job.
pub fn job_id(text: &str) -> Result<JobId, ServiceError> {
    text.parse().map_err(|error: JobError| error.into())
}

/// Parses the model reference in the field `model`.
pub fn model_ref(model: Option<pb::ModelRef>) -> Result<(ModelName, Selector), ServiceError> {
    let model = model.ok_or_else(|| ServiceError::invalid("model", "is not set, expected the name of a model"))?;
    name_and_selector(model, ["model.name", "model.version", "model.alias"])
}

/// Parses a model reference in any field; `fields` are the paths of its name, version and alias.
fn name_and_selector(model: pb::ModelRef, fields: [&'static str; 3]) -> Result<(ModelName, Selector), ServiceError> {
    let name = model_name(fields[0], &model.name)?;
    let selector = match model.selector {
        None => Selector::Latest,
        Some(pb::model_ref::Selector::Version(number)) => Selector::Version(version_number(fields[1], number)?),
        Some(pb::model_ref::Selector::Alias(text)) => Selector::Alias(alias(fields[2], &text)?),
    };
    Ok((name, selector))
}

/// Parses a page token: the last entry of the previous page. `None` for the first page.
pub fn page_token<T: FromStr>(token: &str) -> Result<Option<T>, ServiceError> {
    if token.is_empty() {
        return Ok(None);
    }
    token.parse().map(Some).map_err(|_| bad_token(token))
}

/// As [`page_token`], for entries that are versions.
pub fn version_token(token: &str) -> Result<Option<Version>, ServiceError> {
    let number: Option<u64> = page_token(token)?;
    number.map(|number| Version::new(number).map_err(|_| bad_token(token))).transpose()
}

fn bad_token(token: &str) -> ServiceError {
    let shown = shown(token);
    ServiceError::invalid("page_token", format!("{shown:?} is not a token of this list, expected `next_page_token`"))
}

/// Takes a page from `entries`. Returns it with the token of the next page, which is empty on the last.
pub fn page<T>(entries: impl Iterator<Item = T>, size: u32, token: impl Fn(&T) -> String) -> (Vec<T>, String) {
    let size = if size == 0 { PAGE_DEFAULT } else { size.min(PAGE_MAX) } as usize;
    let mut entries = entries.peekable();
    let page: Vec<T> = entries.by_ref().take(size).collect();
    let next = if entries.peek().is_some() { page.last().map(token).unwrap_or_default() } else { String::new() };
    (page, next)
}

// ---- matrices ----

/// Converts the matrix in `field`, and checks its shape against its length.
pub fn matrix(field: &'static str, matrix: Option<pb::Matrix>) -> Result<Matrix, ServiceError> {
    let matrix = matrix.ok_or_else(|| ServiceError::invalid(field, "is not set, expected a matrix"))?;
    let values = match matrix.values {
        Some(pb::matrix::Values::Float32Le(bytes)) => Values::Float32Le(bytes),
        Some(pb::matrix::Values::Floats(list)) => Values::Floats(list.values),
        Some(pb::matrix::Values::Float64Le(bytes)) => Values::Float64Le(bytes),
        Some(pb::matrix::Values::Float16Le(bytes)) => Values::Float16Le(bytes),
        Some(pb::matrix::Values::Bfloat16Le(bytes)) => Values::Bfloat16Le(bytes),
        Some(pb::matrix::Values::Uint8(bytes)) => Values::Uint8(bytes),
        Some(pb::matrix::Values::Int8(bytes)) => Values::Int8(bytes),
        None => Values::Floats(Vec::new()),
    };
    Matrix::new(matrix.rows, matrix.columns, values).map_err(|error| ServiceError::invalid(field, error))
}

/// Converts the matrix in `field` with its column names.
pub fn named_rows(field: &'static str, matrix: Option<pb::Matrix>) -> Result<NamedRows, ServiceError> {
    let mut matrix = matrix;
    let names = matrix.as_mut().map_or(Vec::new(), |matrix| std::mem::take(&mut matrix.column_names));
    NamedRows::new(field, self::matrix(field, matrix)?, names)
}

/// Converts the requested form of the response.
pub fn answer_format(number: i32) -> Result<AnswerFormat, ServiceError> {
    match pb::AnswerFormat::try_from(number).map_err(|_| unknown_enum("answer_format", number))? {
        pb::AnswerFormat::Unspecified => Ok(AnswerFormat::AsRequest),
        pb::AnswerFormat::Float32Le => Ok(AnswerFormat::Form(Form::Float32Le)),
        pb::AnswerFormat::Floats => Ok(AnswerFormat::Form(Form::Floats)),
        pb::AnswerFormat::Float64Le => Ok(AnswerFormat::Form(Form::Float64Le)),
        pb::AnswerFormat::Float16Le => Ok(AnswerFormat::Form(Form::Float16Le)),
        pb::AnswerFormat::Bfloat16Le => Ok(AnswerFormat::Form(Form::Bfloat16Le)),
        pb::AnswerFormat::AsTrained => Ok(AnswerFormat::AsTrained),
    }
}

/// Converts a matrix into a response, in its own form.
pub fn matrix_answer(matrix: Matrix) -> pb::Matrix {
    // Results have as many rows as the request and as many columns as a layer: rows came as u32, and widths are
    // limited.
    let (rows, columns) = (matrix.rows() as u32, matrix.columns() as u32);
    let values = match matrix.into_values() {
        Values::Float32Le(bytes) => pb::matrix::Values::Float32Le(bytes),
        Values::Floats(values) => pb::matrix::Values::Floats(pb::FloatList { values }),
        Values::Float64Le(bytes) => pb::matrix::Values::Float64Le(bytes),
        Values::Float16Le(bytes) => pb::matrix::Values::Float16Le(bytes),
        Values::Bfloat16Le(bytes) => pb::matrix::Values::Bfloat16Le(bytes),
        Values::Uint8(bytes) => pb::matrix::Values::Uint8(bytes),
        Values::Int8(bytes) => pb::matrix::Values::Int8(bytes),
    };
    pb::Matrix { rows, columns, values: Some(values), ..pb::Matrix::default() }
}

// ---- specifications ----

fn unknown_enum(field: &'static str, number: i32) -> ServiceError {
    ServiceError::invalid(field, format!("{number} is not a known value of this enumeration"))
}

fn activation(field: &'static str, number: i32) -> Result<Option<Activation>, ServiceError> {
    Ok(match pb::Activation::try_from(number).map_err(|_| unknown_enum(field, number))? {
        pb::Activation::Unspecified => None,
        pb::Activation::Linear => Some(Activation::Linear),
        pb::Activation::Relu => Some(Activation::Relu),
        pb::Activation::LeakyRelu => Some(Activation::LeakyRelu { slope: 0.01 }),
        pb::Activation::Elu => Some(Activation::Elu { alpha: 1.0 }),
        pb::Activation::Gelu => Some(Activation::Gelu),
        pb::Activation::Tanh => Some(Activation::Tanh),
        pb::Activation::Sigmoid => Some(Activation::Sigmoid),
    })
}

fn activation_answer(activation: Activation) -> i32 {
    let activation = match activation {
        Activation::Linear => pb::Activation::Linear,
        Activation::Relu => pb::Activation::Relu,
        Activation::LeakyRelu { .. } => pb::Activation::LeakyRelu,
        Activation::Elu { .. } => pb::Activation::Elu,
        Activation::Gelu => pb::Activation::Gelu,
        Activation::Tanh => pb::Activation::Tanh,
        Activation::Sigmoid => pb::Activation::Sigmoid,
    };
    activation.into()
}

fn loss(number: i32) -> Result<Option<Loss>, ServiceError> {
    Ok(match pb::Loss::try_from(number).map_err(|_| unknown_enum("spec.loss", number))? {
        pb::Loss::Unspecified => None,
        pb::Loss::SquaredError => Some(Loss::SquaredError),
        pb::Loss::BinaryCrossEntropy => Some(Loss::BinaryCrossEntropy),
    })
}

fn normalization(number: i32) -> Result<Option<NormalizationKind>, ServiceError> {
    Ok(match pb::Normalization::try_from(number).map_err(|_| unknown_enum("spec.normalization", number))? {
        pb::Normalization::Unspecified => None,
        pb::Normalization::None => Some(NormalizationKind::None),
        pb::Normalization::Standardize => Some(NormalizationKind::Standardize),
        pb::Normalization::MinMax => Some(NormalizationKind::MinMax),
        pb::Normalization::UnitInterval => Some(NormalizationKind::UnitInterval),
        pb::Normalization::Robust => Some(NormalizationKind::Robust),
    })
}

fn initialization(number: i32) -> Result<Option<Initialization>, ServiceError> {
    Ok(match pb::Initialization::try_from(number).map_err(|_| unknown_enum("spec.initialization", number))? {
        pb::Initialization::Unspecified => None,
        pb::Initialization::He => Some(Initialization::He),
        pb::Initialization::Glorot => Some(Initialization::Glorot),
        pb::Initialization::Orthogonal => Some(Initialization::Orthogonal),
        pb::Initialization::Pca => Some(Initialization::Pca),
    })
}

fn optimizer(optimizer: pb::Optimizer) -> Result<OptimizerSpec, ServiceError> {
    let kind =
        pb::OptimizerKind::try_from(optimizer.kind).map_err(|_| unknown_enum("spec.optimizer.kind", optimizer.kind))?;
    let schedule = pb::Schedule::try_from(optimizer.schedule)
        .map_err(|_| unknown_enum("spec.optimizer.schedule", optimizer.schedule))?;
    Ok(OptimizerSpec {
        learning_rate: (optimizer.learning_rate != 0.0).then_some(optimizer.learning_rate),
        weight_decay: optimizer.weight_decay,
        warmup_fraction: optimizer.warmup_fraction,
        kind: match kind {
            pb::OptimizerKind::Unspecified | pb::OptimizerKind::Adamw => OptimizerKind::AdamW,
            pb::OptimizerKind::Sgd => OptimizerKind::Sgd,
        },
        momentum: optimizer.momentum,
        beta2: optimizer.beta2,
        schedule: match schedule {
            pb::Schedule::Unspecified | pb::Schedule::Cosine => Schedule::Cosine,
            pb::Schedule::Constant => Schedule::Constant,
        },
        gradient_norm_max: optimizer.gradient_norm_max,
        find_learning_rate: optimizer.find_learning_rate,
        retraction_steps: optimizer.retraction_steps,
    })
}

fn regularization(regularization: pb::Regularization) -> Regularization {
    let pb::Regularization { l2, activity_l2, masking, gaussian, input_dropout, trim, orthogonality, nested_dropout } =
        regularization;
    Regularization { l2, activity_l2, orthogonality, masking, gaussian, input_dropout, trim, nested_dropout }
}

/// Converts the base version, if there is one.
fn base(model: Option<pb::ModelRef>, or_fresh: bool) -> Result<Option<Base>, ServiceError> {
    let Some(model) = model else {
        let needs = || ServiceError::invalid("spec.fresh_without_base", "is set, which needs a base, got none");
        return if or_fresh { Err(needs()) } else { Ok(None) };
    };
    let (name, selector) = name_and_selector(model, ["spec.base.name", "spec.base.version", "spec.base.alias"])?;
    Ok(Some(Base { name, selector, or_fresh }))
}

/// Converts the duration in `field`. Negative durations are errors; the caller checks the range.
fn length_of_time(
    field: &'static str,
    duration: Option<prost_types::Duration>,
) -> Result<Option<Duration>, ServiceError> {
    let positive = |duration: prost_types::Duration| {
        let (seconds, nanos) = (duration.seconds, duration.nanos);
        Duration::try_from(duration)
            .map_err(|_| ServiceError::invalid(field, format!("is {seconds} s and {nanos} ns, expected 0 or more")))
    };
    duration.map(positive).transpose()
}

/// Converts the limits of a round.
pub fn cadence(incremental: pb::Incremental) -> Result<Cadence, ServiceError> {
    let rows = (incremental.publish_rows != 0).then_some(incremental.publish_rows);
    Cadence::new(rows, length_of_time("spec.incremental.publish_interval", incremental.publish_interval)?)
}

/// Converts the role of a chunk's rows.
pub fn row_role(number: i32) -> Result<RowRole, ServiceError> {
    match pb::RowRole::try_from(number).map_err(|_| unknown_enum("chunk.role", number))? {
        pb::RowRole::Unspecified | pb::RowRole::Training => Ok(RowRole::Training),
        pb::RowRole::Test => Ok(RowRole::Test),
    }
}

/// Converts the decoder.
pub fn decoder(number: i32) -> Result<Decoder, ServiceError> {
    match pb::Decoder::try_from(number).map_err(|_| unknown_enum("decoder", number))? {
        pb::Decoder::Unspecified | pb::Decoder::Transpose => Ok(Decoder::Transpose),
        pb::Decoder::PseudoInverse => Ok(Decoder::PseudoInverse),
    }
}

/// Converts the accuracy of the pseudo-inverse.
pub fn inverted(inverted: Inverted) -> pb::PseudoInverse {
    let Inverted { condition, regularized, approximate } = inverted;
    pb::PseudoInverse { is_linear_approximation: approximate, condition, is_regularized: regularized }
}

/// Converts anomaly scores.
pub fn scored(scored: Scored) -> pb::ScoreResponse {
    let Scored { version, scores, threshold, calibration_rows, residual_variance, feature_names, .. } = scored;
    let name = |feature: u32| feature_names.get(feature as usize).cloned().unwrap_or_default();
    let reason = |(feature, contribution)| pb::Reason { feature, name: name(feature), contribution };
    let reasons = scores.reasons.into_iter();
    pb::ScoreResponse {
        version: version.number(),
        squared_errors: scores.squared_errors,
        code_distances: scores.code_distances,
        scores: scores.scores,
        p_values: scores.p_values,
        alarms: scores.alarms,
        threshold,
        reasons: reasons.map(|row| pb::Reasons { features: row.into_iter().map(reason).collect() }).collect(),
        calibration_rows: calibration_rows as u32,
        residual_variance,
        changes: scores.changes,
        ..pb::ScoreResponse::default()
    }
}

/// Converts the result of an inspection.
pub fn inspection(inspected: Inspected) -> pb::InspectModelResponse {
    let Inspected { key, seen, tensor_bytes, untied_tensor_bytes } = inspected;
    pb::InspectModelResponse {
        version: key.version.number(),
        layers: seen.layers.into_iter().map(layer_inspection).collect(),
        comparison: seen.comparison.map(comparison),
        tensor_bytes,
        untied_tensor_bytes,
        ..pb::InspectModelResponse::default()
    }
}

fn layer_inspection(layer: LayerInspection) -> pb::LayerInspection {
    pb::LayerInspection {
        outputs: layer.outputs as u32,
        inputs: layer.inputs as u32,
        defect: layer.defect.frobenius,
        defect_per_row: layer.defect.per_row,
        defect_largest: layer.defect.largest,
        singular_values: layer.singular_values,
        condition: layer.condition,
        rank: layer.rank as u32,
        row_norms: layer.row_norms,
        dead_units: layer.dead_units.into_iter().map(|unit| unit as u32).collect(),
    }
}

fn comparison(found: Comparison) -> pb::DecoderComparison {
    let no_pseudo_inverse = found.pseudo_inverse.as_ref().err().map(ToString::to_string);
    pb::DecoderComparison {
        rows: found.rows as u64,
        transpose_squared_error: found.transpose,
        pseudo_inverse_squared_error: found.pseudo_inverse.ok(),
        pca_squared_error: found.pca,
        spread: found.spread,
        no_pseudo_inverse: no_pseudo_inverse.unwrap_or_default(),
    }
}

/// Converts the priority of a job.
pub fn priority(number: i32) -> Result<Priority, ServiceError> {
    Priority::try_from(number).map_err(ServiceError::from)
}

/// Converts the text options of files; an empty option is detected from the file.
fn text_options(files: &pb::ServerFiles, missing_values: bool) -> Result<TextOptions, ServiceError> {
    fn set<T: FromStr<Err = DialectError>>(field: &str, text: &str) -> Result<Option<T>, ServiceError> {
        let field = || format!("spec.files.{field}");
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|e| ServiceError::invalid(field(), e)) }
    }
    let options = TextOptions {
        separator: set("separator", &files.separator)?,
        decimal: set("decimal", &files.decimal)?,
        thousands: set("thousands", &files.thousands)?,
        encoding: set("encoding", &files.encoding)?,
        missing_marks: files.missing_marks.clone(),
    };
    options.check(missing_values).map_err(|error| {
        let field = match error {
            DialectError::MarksWithoutMissing | DialectError::Mark { .. } | DialectError::TooManyMarks { .. } => {
                "missing_marks"
            }
            DialectError::Decimal { .. } => "decimal",
            DialectError::Thousands { .. } => "thousands",
            DialectError::Encoding { .. } => "encoding",
            DialectError::Separator { .. } | DialectError::SameMark { .. } => "separator",
        };
        ServiceError::invalid(format!("spec.files.{field}"), error)
    })?;
    Ok(options)
}

/// Converts the files to read rows from. `missing_values`: values may be missing.
pub fn server_files(files: pb::ServerFiles, missing_values: bool) -> Result<ServerFiles, ServiceError> {
    let text = text_options(&files, missing_values)?;
    let pb::ServerFiles { paths, test_paths, format, header, columns, drop_columns, array, .. } = files;
    let format = match pb::FileFormat::try_from(format).map_err(|_| unknown_enum("spec.files.format", format))? {
        pb::FileFormat::Unspecified => None,
        pb::FileFormat::Csv => Some(FileFormat::Csv),
        pb::FileFormat::Npy => Some(FileFormat::Npy),
        pb::FileFormat::Idx => Some(FileFormat::Idx),
        pb::FileFormat::Parquet => Some(FileFormat::Parquet),
        pb::FileFormat::Arrow => Some(FileFormat::Arrow),
        pb::FileFormat::Npz => Some(FileFormat::Npz),
        pb::FileFormat::Safetensors => Some(FileFormat::Safetensors),
        pb::FileFormat::JsonLines => Some(FileFormat::JsonLines),
        pb::FileFormat::Fvecs => Some(FileFormat::Fvecs),
        pb::FileFormat::Bvecs => Some(FileFormat::Bvecs),
        pb::FileFormat::Ivecs => Some(FileFormat::Ivecs),
        pb::FileFormat::Fbin => Some(FileFormat::Fbin),
        pb::FileFormat::U8bin => Some(FileFormat::U8bin),
        pb::FileFormat::I8bin => Some(FileFormat::I8bin),
        pb::FileFormat::WordVectors => Some(FileFormat::WordVectors),
    };
    let array = Some(array).filter(|array| !array.is_empty());
    Ok(ServerFiles {
        paths,
        test_paths,
        options: ReadOptions {
            format,
            header,
            columns,
            drop_columns,
            missing_values,
            text,
            features: Vec::new(),
            array,
        },
    })
}

/// Converts a training specification and its idempotency key. Numbers that mean "the server's choice" become `None`.
/// [`TrainSpec::check`] checks the rest.
pub fn train_spec(spec: pb::TrainSpec) -> Result<(TrainSpec, Option<IdempotencyKey>), ServiceError> {
    let key = match spec.idempotency_key.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error: JobError| ServiceError::invalid("spec.idempotency_key", error))?),
    };
    let activations = |field, numbers: Vec<i32>| -> Result<Vec<_>, ServiceError> {
        numbers.into_iter().map(|number| activation(field, number)).collect()
    };
    let spec = TrainSpec {
        model_name: model_name("spec.model_name", &spec.model_name)?,
        widths: spec.widths.into_iter().map(|width| width as usize).collect(),
        hidden_activation: activation("spec.hidden_activation", spec.hidden_activation)?,
        code_activation: activation("spec.code_activation", spec.code_activation)?,
        output_activation: activation("spec.output_activation", spec.output_activation)?,
        encoder_activations: activations("spec.encoder_activations", spec.encoder_activations)?,
        decoder_activations: activations("spec.decoder_activations", spec.decoder_activations)?,
        loss: loss(spec.loss)?,
        normalization: normalization(spec.normalization)?,
        value_range: spec.value_range.map(|range| (range.minimum, range.maximum)),
        gain: spec.gain,
        optimizer: optimizer(spec.optimizer.unwrap_or_default())?,
        initialization: initialization(spec.initialization)?,
        epochs: (spec.epochs != 0).then_some(spec.epochs),
        batch_rows: (spec.batch_rows != 0).then_some(spec.batch_rows),
        validation_fraction: spec.validation_fraction,
        patience_epochs: spec.patience_epochs,
        seed: spec.seed,
        feature_names: spec.feature_names,
        time_budget: length_of_time("spec.time_budget", spec.time_budget)?,
        regularization: regularization(spec.regularization.unwrap_or_default()),
        base: base(spec.base, spec.fresh_without_base)?,
        publish_if_better: spec.publish_if_better,
        missing_values: spec.missing_values,
        validation_sample_rows: spec.validation_sample_rows,
        explained_share: spec.explained_share,
    };
    Ok((spec, key))
}

fn spec_answer(spec: &ModelSpec) -> pb::ModelSpec {
    let raw = spec.raw();
    let normalization = match raw.normalization {
        NormalizationKind::None => pb::Normalization::None,
        NormalizationKind::Standardize => pb::Normalization::Standardize,
        NormalizationKind::MinMax => pb::Normalization::MinMax,
        NormalizationKind::UnitInterval => pb::Normalization::UnitInterval,
        NormalizationKind::Robust => pb::Normalization::Robust,
    };
    let loss = match raw.loss {
        Loss::SquaredError => pb::Loss::SquaredError,
        Loss::BinaryCrossEntropy => pb::Loss::BinaryCrossEntropy,
    };
    pb::ModelSpec {
        widths: raw.widths.iter().map(|width| *width as u32).collect(),
        encoder_activations: raw.encoder_activations.iter().copied().map(activation_answer).collect(),
        decoder_activations: raw.decoder_activations.iter().copied().map(activation_answer).collect(),
        loss: loss.into(),
        normalization: normalization.into(),
        gain: raw.gain,
        feature_names: raw.feature_names.clone(),
        missing_values: raw.missing_values,
        ordered_code: raw.ordered_code,
    }
}

// ---- models and reports ----

/// Converts a model for a listing.
pub fn model(entry: &ModelEntry) -> pb::Model {
    pb::Model {
        name: entry.name.to_string(),
        latest_version: entry.versions.keys().next_back().map_or(0, |version| version.number()),
        version_count: entry.versions.len() as u64,
        aliases: entry
            .aliases
            .iter()
            .map(|(alias, version)| pb::Alias { alias: alias.to_string(), version: version.number() })
            .collect(),
    }
}

/// Converts a version.
pub fn version(description: VersionDescription, with: Report) -> pb::ModelVersion {
    let report = description.report.as_ref().filter(|_| with == Report::With);
    pb::ModelVersion {
        name: description.key.name.to_string(),
        version: description.key.version.number(),
        aliases: description.aliases.iter().map(ToString::to_string).collect(),
        create_time: Some(timestamp(description.published)),
        spec: Some(spec_answer(&description.spec)),
        training_report: report.map(self::report),
        file_bytes: description.file_bytes,
        tensor_bytes: description.spec.tensor_bytes(),
        untied_tensor_bytes: description.spec.untied_tensor_bytes(),
        sha256: description.sha256,
    }
}

/// Converts a training report.
pub fn report(report: &TrainingReport) -> pb::TrainingReport {
    pb::TrainingReport {
        epochs: report.epochs.iter().map(epoch_losses).collect(),
        best_epoch: report.best_epoch,
        validation: report.validation.as_ref().map(evaluation),
        test: report.test.as_ref().map(evaluation),
        training_rows: report.training_rows,
        pca_rows: report.pca_rows,
        data_sha256: report.data_sha256.clone(),
        seed: report.seed,
        duration_seconds: report.duration_seconds,
        software: report.software.clone(),
        job_id: report.job_id.clone(),
        batch_rows: report.batch_rows,
        learning_rate: report.learning_rate,
        notes: report.notes.clone(),
        base_model_name: report.base.as_ref().map(|base| base.name.to_string()).unwrap_or_default(),
        base_version: report.base.as_ref().map_or(0, |base| base.version.number()),
        base_validation: report.base_validation.as_ref().map(evaluation),
        feature_explained_variance: report
            .feature_explained_variance
            .iter()
            .map(|share| share.unwrap_or(f32::NAN))
            .collect(),
    }
}

fn epoch_losses(losses: &EpochLosses) -> pb::EpochLosses {
    pb::EpochLosses {
        epoch: losses.epoch,
        training_loss: losses.training_loss,
        validation_loss: losses.validation_loss,
        squared_error: losses.squared_error,
        defects: losses.defects.clone(),
    }
}

fn evaluation(evaluation: &Evaluation) -> pb::Evaluation {
    pb::Evaluation {
        rows: evaluation.rows,
        loss: evaluation.loss,
        squared_error: evaluation.squared_error,
        squared_error_input_units: evaluation.squared_error_input_units,
        pca_squared_error: evaluation.pca_squared_error,
        pca_squared_error_input_units: evaluation.pca_squared_error_input_units,
        explained_variance: evaluation.explained_variance,
        pca_explained_variance: evaluation.pca_explained_variance,
        loss_floor: evaluation.loss_floor,
    }
}

// ---- jobs ----

/// Converts a job.
pub fn job(snapshot: JobSnapshot, with: Report) -> pb::Job {
    let state = match snapshot.state {
        JobState::Uploading => pb::JobState::Uploading,
        JobState::Queued => pb::JobState::Queued,
        JobState::Running => pb::JobState::Running,
        JobState::Paused => pb::JobState::Paused,
        JobState::Succeeded => pb::JobState::Succeeded,
        JobState::Failed => pb::JobState::Failed,
        JobState::Cancelled => pb::JobState::Cancelled,
    };
    pb::Job {
        id: snapshot.id.to_string(),
        model_name: snapshot.model_name.to_string(),
        state: state.into(),
        priority: snapshot.priority.number(),
        create_time: Some(timestamp(snapshot.created)),
        update_time: Some(timestamp(snapshot.updated)),
        upload_expire_time: snapshot.upload_expires.map(timestamp),
        chunk_count: snapshot.chunks,
        row_count: snapshot.training_rows,
        test_row_count: snapshot.test_rows,
        progress: snapshot.progress.as_ref().map(progress),
        version: snapshot.version.map_or(0, Version::number),
        training_report: snapshot.report.as_deref().filter(|_| with == Report::With).map(report),
        failure: snapshot.failure.map(String::from).unwrap_or_default(),
        kept_back: snapshot.kept_back.unwrap_or_default(),
        round: snapshot.round.map_or(0, |round| round.number),
        idempotency_key: snapshot.idempotency_key.map(|key| key.to_string()).unwrap_or_default(),
    }
}

fn progress(progress: &Progress) -> pb::Progress {
    pb::Progress {
        epoch: progress.epoch,
        epoch_count: progress.epoch_count,
        training_loss: progress.training_loss,
        validation_loss: progress.validation_loss,
        rows_per_second: progress.rows_per_second,
        time_left: progress.time_left.and_then(duration),
        explained_variance: progress.explained_variance,
        pca_explained_variance: progress.pca_explained_variance,
        step: progress.step,
        step_count: progress.step_count,
        serving_paused: duration(progress.serving_paused),
    }
}

fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_names_its_last_entry_until_there_is_no_more() {
        let entries = || ["a", "b", "c"].into_iter();
        let token = |entry: &&str| (*entry).to_owned();
        assert_eq!(page(entries(), 2, token), (vec!["a", "b"], "b".to_owned()));
        assert_eq!(page(entries(), 3, token), (vec!["a", "b", "c"], String::new()));
        assert_eq!(page(entries(), 0, token), (vec!["a", "b", "c"], String::new()));
        assert_eq!(page(std::iter::empty(), 5, token), (vec![], String::new()));
    }

    #[test]
    fn a_reference_without_selector_means_the_newest() {
        let reference = pb::ModelRef { name: "digits".into(), selector: None };
        assert_eq!(model_ref(Some(reference)).expect("valid").1, Selector::Latest);
    }

    #[track_caller]
    fn check_field(result: Result<impl std::fmt::Debug, ServiceError>, expected: &str) {
        match result {
            Err(error) => assert_eq!(error.field().as_deref(), Some(expected), "{error}"),
            Ok(value) => panic!("accepted {value:?}"),
        }
    }

    #[test]
    fn errors_name_the_invalid_field() {
        let reference = |name: &str, selector| Some(pb::ModelRef { name: name.into(), selector });
        check_field(model_ref(None), "model");
        check_field(model_ref(reference("../x", None)), "model.name");
        check_field(model_ref(reference("x", Some(pb::model_ref::Selector::Version(0)))), "model.version");
        check_field(model_ref(reference("x", Some(pb::model_ref::Selector::Alias("7".into())))), "model.alias");
        check_field(matrix("rows", None), "rows");
        check_field(matrix("rows", Some(pb::Matrix { rows: 1, columns: 1, ..pb::Matrix::default() })), "rows");
        check_field(page_token::<JobId>("x"), "page_token");
        check_field(version_token("0"), "page_token");
        check_field(row_role(77), "chunk.role");
        let spec = pb::TrainSpec { model_name: "m".into(), loss: 99, ..Default::default() };
        check_field(train_spec(spec), "spec.loss");
        let spec = pb::TrainSpec { model_name: "m".into(), hidden_activation: -1, ..Default::default() };
        check_field(train_spec(spec), "spec.hidden_activation");
        let optimizing =
            |optimizer| pb::TrainSpec { model_name: "m".into(), optimizer: Some(optimizer), ..Default::default() };
        check_field(train_spec(optimizing(pb::Optimizer { kind: 9, ..Default::default() })), "spec.optimizer.kind");
        let schedule = pb::Optimizer { schedule: -1, ..Default::default() };
        check_field(train_spec(optimizing(schedule)), "spec.optimizer.schedule");
        let time_budget = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        let spec = pb::TrainSpec { model_name: "m".into(), time_budget, ..Default::default() };
        check_field(train_spec(spec), "spec.time_budget");
        for (field, files) in [
            ("separator", pb::ServerFiles { separator: "ab".into(), ..Default::default() }),
            ("decimal", pb::ServerFiles { decimal: "x".into(), ..Default::default() }),
            ("thousands", pb::ServerFiles { thousands: "x".into(), ..Default::default() }),
            ("encoding", pb::ServerFiles { encoding: "klingon".into(), ..Default::default() }),
            ("missing_marks", pb::ServerFiles { missing_marks: vec!["x".into()], ..Default::default() }),
            ("separator", pb::ServerFiles { separator: ",".into(), decimal: ",".into(), ..Default::default() }),
        ] {
            check_field(server_files(files, false), &format!("spec.files.{field}"));
        }
        check_field(server_files(pb::ServerFiles { format: 99, ..Default::default() }, false), "spec.files.format");
    }

    #[test]
    fn a_training_recipe_is_converted_completely() {
        let spec = pb::TrainSpec {
            model_name: "m".into(),
            widths: vec![8, 3],
            initialization: pb::Initialization::Pca.into(),
            optimizer: Some(pb::Optimizer {
                kind: pb::OptimizerKind::Adamw.into(),
                momentum: Some(0.0),
                beta2: Some(0.99),
                schedule: pb::Schedule::Constant.into(),
                gradient_norm_max: Some(1.5),
                find_learning_rate: true,
                retraction_steps: 100,
                ..Default::default()
            }),
            time_budget: Some(prost_types::Duration { seconds: 90, nanos: 500_000_000 }),
            regularization: Some(pb::Regularization {
                l2: 0.1,
                activity_l2: 0.0,
                masking: 0.0,
                gaussian: 0.4,
                input_dropout: 0.5,
                trim: 0.0,
                orthogonality: 0.7,
                nested_dropout: 0.6,
            }),
            ..Default::default()
        };
        let (spec, _) = train_spec(spec).expect("converts");
        let spec = spec.check().expect("valid").spec().clone();
        assert_eq!(spec.initialization, Some(Initialization::Pca));
        assert_eq!(
            spec.optimizer,
            OptimizerSpec {
                kind: OptimizerKind::AdamW,
                momentum: Some(0.0),
                beta2: Some(0.99),
                schedule: Schedule::Constant,
                gradient_norm_max: Some(1.5),
                find_learning_rate: true,
                retraction_steps: 100,
                ..OptimizerSpec::default()
            }
        );
        assert_eq!(spec.time_budget, Some(Duration::from_millis(90_500)));
        assert_eq!(
            spec.regularization,
            Regularization {
                l2: 0.1,
                activity_l2: 0.0,
                orthogonality: 0.7,
                masking: 0.0,
                gaussian: 0.4,
                input_dropout: 0.5,
                trim: 0.0,
                nested_dropout: 0.6
            }
        );
    }

    proptest! {
        /// No message of any content panics, and a matrix that is accepted has as many values as it says.
        #[test]
        fn accepted_matrices_have_all_their_values(rows in any::<u32>(), columns in any::<u32>(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let length = bytes.len();
            let values = Some(pb::matrix::Values::Float32Le(bytes.into()));
            if let Ok(matrix) = matrix("rows", Some(pb::Matrix { rows, columns, values, ..pb::Matrix::default() })) {
                prop_assert_eq!(matrix.rows() * matrix.columns() * 4, length);
            }
        }

        #[test]
        fn small_shapes_are_accepted_exactly_when_they_fit(rows in 0u32..6, columns in 0u32..6, count in 0usize..40) {
            let values = Some(pb::matrix::Values::Floats(pb::FloatList { values: vec![1.0; count] }));
            let fits = rows > 0 && columns > 0 && (rows * columns) as usize == count;
            prop_assert_eq!(matrix("rows", Some(pb::Matrix { rows, columns, values, ..pb::Matrix::default() })).is_ok(), fits);
        }

        /// Bytes that decode as any request convert without a panic.
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            use prost::Message as _;
            if let Ok(spec) = pb::TrainSpec::decode(bytes.as_slice()) {
                let _ = train_spec(spec).map(|(spec, _)| spec.check());
            }
            if let Ok(request) = pb::EncodeRequest::decode(bytes.as_slice()) {
                let _ = model_ref(request.model);
                let _ = matrix("rows", request.rows);
            }
        }

        /// A matrix comes back as it went, in the same form.
        #[test]
        fn responses_use_the_format_of_the_request(values in proptest::collection::vec(any::<f32>(), 1..30), as_bytes in any::<bool>()) {
            let form = if as_bytes {
                pb::matrix::Values::Float32Le(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
            } else {
                pb::matrix::Values::Floats(pb::FloatList { values: values.iter().map(|v| if v.is_nan() { 0.0 } else { *v }).collect() })
            };
            let request = pb::Matrix { rows: 1, columns: values.len() as u32, values: Some(form), ..pb::Matrix::default() };
            let response = matrix_answer(matrix("rows", Some(request.clone())).expect("valid"));
            prop_assert_eq!(response, request);
        }
    }
}
