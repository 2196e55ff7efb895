//! Arguments of `halfhitch train`, and their specification for the server.

use std::sync::Mutex;
use std::time::Duration;

use super::data::{ColumnsOfFiles, Source};
use super::reading::{self, ReadArgs};
use super::{CliError, duration};
use crate::client::model_ref;
use crate::rpc::pb;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  halfhitch train sensors rows.csv\n  halfhitch train digits digits.csv --drop-columns 65 --widths 64,32,8\n  halfhitch train mnist train-images-idx3-ubyte.gz --test t10k-images-idx3-ubyte.gz --widths 784,1000,500,250,30\n  halfhitch train embed embeddings.npy --code 64 --loss squared-error\n  halfhitch train digits new.csv --drop-columns 65 --from digits --publish-if-better\n  tail -f rows.csv | halfhitch train sensors - --widths 8,3 --follow --publish-rows 5000\n  halfhitch train large --server-files 2026/a.npy,2026/b.npy --widths 784,256,32\n\nEvery option has a default; the result says which values were chosen.\n\nA file that cannot be read cancels the job. So does Ctrl-C during the upload, unless the rows come from\nstandard input. With --idempotency-key the server keeps the uploaded rows instead, and the same command\ncontinues after them. After the upload, Ctrl-C ends only this command: the job continues on the server."
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct TrainArgs {
    /// Model to train; the result is published as a new version of it
    name: String,
    /// Training rows: .csv, .npy, .npz, .parquet, .jsonl and others (docs/guide.md), plain or compressed; - for
    /// standard input
    #[arg(required_unless_present = "server_files")]
    pub(super) files: Vec<String>,
    /// Test rows: measured on, never trained on
    #[arg(long, value_name = "FILE")]
    test: Vec<String>,
    /// Train on files of the server, by paths below its train_folder
    #[arg(long, value_delimiter = ',', value_name = "PATH,...", conflicts_with_all = ["files", "test"], requires = "widths")]
    server_files: Vec<String>,
    /// Test rows in files of the server
    #[arg(long, value_delimiter = ',', value_name = "PATH,...", requires = "server_files")]
    server_test: Vec<String>,
    /// Layer widths from the input to the code, for example 784,1000,500,250,30
    #[arg(long, value_delimiter = ',', value_name = "D0,...,DK", conflicts_with_all = ["code", "hidden"])]
    pub(super) widths: Vec<u32>,
    /// Code length, at least 1; the input width follows from the rows [default: chosen from the rows, see --explain]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    code: Option<u32>,
    /// Without --code: use as many code numbers as PCA needs to explain this share of the variance, above 0 to 1
    /// [default: 0.95]
    #[arg(long, value_name = "SHARE", conflicts_with_all = ["code", "from"])]
    explain: Option<f64>,
    /// Widths of the hidden layers between input and code
    #[arg(long, value_delimiter = ',', value_name = "D1,...")]
    hidden: Vec<u32>,
    /// Start from the weights of a version: NAME@VERSION, NAME@ALIAS, or NAME for the newest
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["code", "explain", "hidden", "loss", "normalization", "hidden_activation", "code_activation", "output_activation", "gain", "init"])]
    pub(super) from: Option<String>,
    /// Publish only if the validation loss is lower than that of --from on the same rows
    #[arg(long, requires = "from")]
    publish_if_better: bool,
    /// Train in rounds on rows that keep coming; each round starts from the newest version and is published if it is
    /// better
    #[arg(long, conflicts_with_all = ["from", "test", "detach", "idempotency_key"])]
    pub(super) follow: bool,
    /// With --follow: training rows per round, 10 to 1000000000
    #[arg(long, value_name = "ROWS", requires = "follow")]
    pub(super) publish_rows: Option<u64>,
    /// With --follow: duration of a round, 1s to 30d, for example 30s or 10m
    #[arg(long, value_name = "TIME", value_parser = duration::parse, requires = "follow")]
    pub(super) publish_interval: Option<Duration>,
    /// Passes over the training rows, 1 to 100000 [default: about 4,000 steps, 15 to 500 epochs]
    #[arg(long, conflicts_with = "time_budget")]
    epochs: Option<u32>,
    /// Training time, 1s to 30d, for example 90s, 10m or 1h30m, instead of --epochs
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    time_budget: Option<Duration>,
    /// Rows of a mini-batch, 1 to 65536 [default: chosen from the number of rows]
    #[arg(long, value_name = "ROWS")]
    batch_rows: Option<u32>,
    /// Peak learning rate, above 0 to 1 [default: chosen from the widths]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Find the peak learning rate with a sweep before training
    #[arg(long, conflicts_with = "learning_rate")]
    find_learning_rate: bool,
    /// Optimizer [default: adamw]
    #[arg(long, value_enum)]
    optimizer: Option<OptimizerArg>,
    /// Momentum (beta1 of AdamW), 0 to 0.999999 [default: 0.9]
    #[arg(long, value_name = "SHARE")]
    momentum: Option<f64>,
    /// Decay rate of the mean squared gradients in AdamW (beta2), 0 to 0.999999 [default: 0.999]
    #[arg(long, value_name = "SHARE")]
    beta2: Option<f64>,
    /// Learning rate schedule after the warm-up [default: cosine, which ends at 0]
    #[arg(long, value_enum)]
    schedule: Option<ScheduleArg>,
    /// Clip gradients to this Euclidean norm, above 0 [default: no clipping]
    #[arg(long, value_name = "NORM")]
    gradient_norm_max: Option<f64>,
    /// Every STEPS steps, and at the end of each epoch, make the rows of every matrix orthonormal (columns, where it
    /// expands), 0 to 1000000; 0 means never [default: 0]
    #[arg(long, value_name = "STEPS", default_value_t = 0, hide_default_value = true)]
    retraction_steps: u32,
    /// Decoupled weight decay, 0 to 1
    #[arg(long, value_name = "DECAY", default_value_t = 0.0)]
    weight_decay: f64,
    /// Share of the steps in which the learning rate rises, 0 to 1 [default: 0.05]
    #[arg(long, value_name = "SHARE")]
    warmup_fraction: Option<f64>,
    /// Add 2 * L2 * (sum of squared weights) to the loss, 0 to 1000; unlike --weight-decay, it is part of the gradient
    #[arg(long, value_name = "L2", default_value_t = 0.0)]
    l2: f64,
    /// Add this times the mean squared length of the codes to the loss, 0 to 1000
    #[arg(long, value_name = "L2", default_value_t = 0.0)]
    activity_l2: f64,
    /// Add this times the squared distance of every matrix from orthonormal rows (columns, where it expands) to the
    /// loss, 0 to 1000
    #[arg(long, value_name = "STRENGTH", default_value_t = 0.0)]
    orthogonality: f64,
    /// Denoising: zero this share of the values of each training row, 0 to 0.95
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, conflicts_with = "input_dropout")]
    masking: f64,
    /// Denoising: add normal noise with this standard deviation to the normalized training rows, 0 to 10
    #[arg(long, value_name = "DEVIATION", default_value_t = 0.0)]
    gaussian: f64,
    /// Zero this share of the values of each training row and scale up the others, 0 to 0.95
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    input_dropout: f64,
    /// Ignore this share of the rows of each mini-batch, those with the largest error; for data with bad rows, 0 to 0.5
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, conflicts_with_all = ["activity_l2", "patience_epochs"])]
    trim: f64,
    /// Nested dropout: truncate the codes of this share of the training rows at random, 0 to 0.95, so that the first
    /// numbers of a code carry the most information
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, conflicts_with = "trim")]
    nested_dropout: f64,
    /// Loss to minimize [default: cross-entropy for values in the unit interval, else squared error]
    #[arg(long, value_enum)]
    loss: Option<LossArg>,
    /// Normalization of the features [default: unit interval for pixels and shares, robust where values are broken,
    /// else standardize]
    #[arg(long, alias = "normalization", value_enum)]
    normalization: Option<NormalizationArg>,
    /// Activation of the hidden layers [default: elu]
    #[arg(long, value_enum)]
    hidden_activation: Option<ActivationArg>,
    /// Activation of the code [default: linear]
    #[arg(long, value_enum)]
    code_activation: Option<ActivationArg>,
    /// Activation of the output [default: sigmoid with cross-entropy, else linear]
    #[arg(long, value_enum)]
    output_activation: Option<ActivationArg>,
    /// Store a gain per decoder unit; useful with tanh or sigmoid
    #[arg(long)]
    gain: bool,
    /// Initialization of the weights [default: orthogonal]
    #[arg(long, value_enum)]
    init: Option<InitArg>,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Share of the rows to hold out for validation, 0 to 0.9 [default: 0.05; if that is less than 100 rows, up
    /// to 0.2; at most 50000 rows]
    #[arg(long, value_name = "SHARE")]
    validation_fraction: Option<f64>,
    /// Held-out rows to store with the version, for `inspect --validation-sample`, 0 to 4096 [default: 0]
    #[arg(long, value_name = "ROWS", default_value_t = 0, hide_default_value = true)]
    validation_sample: u32,
    /// Stop after this many epochs without a lower validation loss, at least 1 [default: never]
    #[arg(long, value_name = "EPOCHS")]
    patience_epochs: Option<u32>,
    /// Priority among queued jobs, -10 to 10; higher starts earlier
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-10..=10))]
    priority: i32,
    /// Key of the upload; the same key resumes an interrupted upload [default: a new key, printed]
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
    /// Exit after the upload; `halfhitch jobs watch ID` attaches again
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    pub(super) read: ReadArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LossArg {
    SquaredError,
    BinaryCrossEntropy,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum NormalizationArg {
    None,
    Standardize,
    MinMax,
    UnitInterval,
    /// As standardize, but replaces broken training values
    Robust,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ActivationArg {
    Linear,
    Relu,
    LeakyRelu,
    Elu,
    Gelu,
    Tanh,
    Sigmoid,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum InitArg {
    He,
    Glorot,
    Orthogonal,
    /// Principal components of the rows
    Pca,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OptimizerArg {
    #[value(name = "adamw")]
    AdamW,
    /// SGD with Nesterov momentum
    Sgd,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ScheduleArg {
    Cosine,
    Constant,
}

fn activation(arg: Option<ActivationArg>) -> i32 {
    let activation = match arg {
        None => pb::Activation::Unspecified,
        Some(ActivationArg::Linear) => pb::Activation::Linear,
        Some(ActivationArg::Relu) => pb::Activation::Relu,
        Some(ActivationArg::LeakyRelu) => pb::Activation::LeakyRelu,
        Some(ActivationArg::Elu) => pb::Activation::Elu,
        Some(ActivationArg::Gelu) => pb::Activation::Gelu,
        Some(ActivationArg::Tanh) => pb::Activation::Tanh,
        Some(ActivationArg::Sigmoid) => pb::Activation::Sigmoid,
    };
    activation.into()
}

impl TrainArgs {
    /// The specification for the server, the source of the rows, and whether to detach.
    pub(super) fn request(self) -> Result<(pb::TrainSpec, Source, bool), CliError> {
        let options = self.read.options();
        let (optimizer, regularization) = (self.optimizer(), self.regularization());
        let mut opened = None;
        let known = match self.files.iter().find(|path| !reading::is_stream(path)).or(self.files.first()) {
            // Standard input can be opened only once: here if its column count is needed, else by the upload.
            Some(path) if path == "-" && !self.widths.is_empty() => None,
            Some(path) => {
                let reader = reading::open(path, &options)?;
                let known = (reader.columns() as u32, reader.names().to_vec());
                opened = reading::is_stream(path).then(|| (path.clone(), reader));
                Some(known)
            }
            None => None,
        };
        let (columns, names) = known.map_or((None, Vec::new()), |(columns, names)| (Some(columns), names));
        let widths = if self.widths.is_empty() {
            let Some(columns) = columns else {
                return Err(CliError::Usage("--server-files needs --widths".to_owned()));
            };
            // With length 0 the server chooses the code length.
            [vec![columns], self.hidden, vec![self.code.unwrap_or(0)]].concat()
        } else {
            self.widths
        };
        if let Some(columns) = columns
            && widths[0] != columns
            // The server ignores named columns that the base version does not have.
            && (!(self.from.is_some() || self.follow) || names.is_empty())
        {
            let file = &self.files[0];
            if let Some(base) = &self.from {
                return Err(CliError::Usage(format!(
                    "{base} expects rows of {} columns, but {file} has {columns}: leave columns out with \
                     --drop-columns, or train without --from",
                    widths[0]
                )));
            }
            return Err(CliError::Usage(format!(
                "--widths begins with {}, but {file} has {columns} columns: correct --widths, or leave columns out \
                 with --drop-columns",
                widths[0]
            )));
        }
        let base = self.from.as_deref().map(model_ref).transpose()?;
        let normalization = match self.normalization {
            None => pb::Normalization::Unspecified,
            Some(NormalizationArg::None) => pb::Normalization::None,
            Some(NormalizationArg::Standardize) => pb::Normalization::Standardize,
            Some(NormalizationArg::MinMax) => pb::Normalization::MinMax,
            Some(NormalizationArg::UnitInterval) => pb::Normalization::UnitInterval,
            Some(NormalizationArg::Robust) => pb::Normalization::Robust,
        };
        let loss = match self.loss {
            None => pb::Loss::Unspecified,
            Some(LossArg::SquaredError) => pb::Loss::SquaredError,
            Some(LossArg::BinaryCrossEntropy) => pb::Loss::BinaryCrossEntropy,
        };
        let initialization = match self.init {
            None => pb::Initialization::Unspecified,
            Some(InitArg::He) => pb::Initialization::He,
            Some(InitArg::Glorot) => pb::Initialization::Glorot,
            Some(InitArg::Orthogonal) => pb::Initialization::Orthogonal,
            Some(InitArg::Pca) => pb::Initialization::Pca,
        };
        let spec = pb::TrainSpec {
            model_name: self.name,
            feature_names: if base.is_none() && names.len() == widths[0] as usize { names } else { Vec::new() },
            widths,
            hidden_activation: activation(self.hidden_activation),
            code_activation: activation(self.code_activation),
            output_activation: activation(self.output_activation),
            loss: loss.into(),
            normalization: normalization.into(),
            gain: self.gain,
            optimizer: Some(optimizer),
            regularization: Some(regularization),
            // `duration::parse` limits the value to what the wire format can hold.
            time_budget: self.time_budget.and_then(|budget| budget.try_into().ok()),
            initialization: initialization.into(),
            epochs: self.epochs.unwrap_or(0),
            batch_rows: self.batch_rows.unwrap_or(0),
            validation_fraction: self.validation_fraction,
            patience_epochs: self.patience_epochs,
            seed: self.seed,
            base,
            publish_if_better: self.publish_if_better,
            missing_values: self.read.missing_values(),
            validation_sample_rows: self.validation_sample,
            explained_share: self.explain,
            priority: self.priority,
            idempotency_key: self.idempotency_key.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            ..pb::TrainSpec::default()
        };
        if self.server_files.is_empty() {
            let columns = ColumnsOfFiles::new(self.read.by_position(), spec.base.is_some());
            let (training, test, opened) = (self.files, self.test, Mutex::new(opened));
            let options = Box::new(options);
            return Ok((spec, Source::Files { training, test, options, columns, opened }, self.detach));
        }
        let files = Some(self.read.server_files(self.server_files, self.server_test));
        Ok((pb::TrainSpec { files, ..spec }, Source::Server, self.detach))
    }

    fn optimizer(&self) -> pb::Optimizer {
        let kind = match self.optimizer {
            None => pb::OptimizerKind::Unspecified,
            Some(OptimizerArg::AdamW) => pb::OptimizerKind::Adamw,
            Some(OptimizerArg::Sgd) => pb::OptimizerKind::Sgd,
        };
        let schedule = match self.schedule {
            None => pb::Schedule::Unspecified,
            Some(ScheduleArg::Cosine) => pb::Schedule::Cosine,
            Some(ScheduleArg::Constant) => pb::Schedule::Constant,
        };
        pb::Optimizer {
            learning_rate: self.learning_rate.unwrap_or(0.0),
            weight_decay: self.weight_decay,
            warmup_fraction: self.warmup_fraction,
            kind: kind.into(),
            momentum: self.momentum,
            beta2: self.beta2,
            schedule: schedule.into(),
            gradient_norm_max: self.gradient_norm_max,
            find_learning_rate: self.find_learning_rate,
            retraction_steps: self.retraction_steps,
        }
    }

    fn regularization(&self) -> pb::Regularization {
        pb::Regularization {
            l2: self.l2,
            activity_l2: self.activity_l2,
            masking: self.masking,
            gaussian: self.gaussian,
            input_dropout: self.input_dropout,
            trim: self.trim,
            orthogonality: self.orthogonality,
            nested_dropout: self.nested_dropout,
        }
    }
}
