//! The one table of gRPC methods, and the operations on rows.
//!
//! At the lowest level, because access control, metrics and the transport need them as well as batching.
//!
//! A call's path is parsed once, into a [`Method`]. Everything else about a method follows from its [`Kind`], by a
//! `match` without `_`: its role, its early rejection, its trailers and its counters.

macro_rules! operations {
    ($($(#[$doc:meta])* $operation:ident $word:literal;)*) => {
        /// Operation on rows or codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation {
            $($(#[$doc])* $operation,)*
        }

        impl Operation {
            /// All operations, in the order of their numbers.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$operation),*];

            /// Name for labels, in snake case.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$operation => $word,)*
                }
            }
        }
    };
}

operations! {
    /// Rows to codes.
    Encode "encode";
    /// Codes to rows.
    Decode "decode";
    /// Rows to rows, with reconstruction errors.
    Reconstruct "reconstruct";
    /// Codes to rows, with the pseudo-inverse of each matrix.
    DecodePseudoInverse "decode_pseudo_inverse";
    /// Rows to rows, with reconstruction errors, likewise with the pseudo-inverse.
    ReconstructPseudoInverse "reconstruct_pseudo_inverse";
    /// Rows to anomaly scores: squared errors and squared distances of their codes.
    Score "score";
    /// Like [`Operation::Score`], with the contribution of each feature.
    Explain "explain";
    /// Rows with missing values to complete rows; only for models that accept missing values.
    Impute "impute";
}

/// What a method does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Computes the rows of one request with this operation, in batches.
    Rows(Operation),
    /// Computes the rows of one request in batches, with an operation that the request names.
    AnyRows,
    /// Computes the rows of a stream of requests.
    RowsStream,
    /// Trains a model on a stream of rows.
    Train,
    /// Reads or controls training jobs.
    Jobs,
    /// Reads models and changes nothing.
    ReadModels,
    /// Creates a version without training.
    CreateVersion,
    /// Deletes versions, moves aliases, loads or unloads models.
    ManageModels,
    /// Describes the server and its API.
    Describe,
    /// Health check.
    Health,
}

/// Properties of a method.
struct Entry {
    service: GrpcService,
    name: &'static str,
    takes_stream: bool,
    kind: Kind,
}

macro_rules! methods {
    (@takes_stream message) => { false };
    (@takes_stream stream) => { true };
    ($(
        $service:ident $full_name:literal {
            $($method:ident $name:literal $requests:ident $kind:ident$(($operation:ident))?;)*
        }
    )*) => {
        /// A gRPC service of the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GrpcService {
            $(#[doc = concat!("`", $full_name, "`.")] $service,)*
        }

        impl GrpcService {
            /// Name with package.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$service => $full_name,)*
                }
            }

            /// The service of a path (`/package.Service/Method`), whether or not it has the method. `None` if the
            /// server has no such service.
            pub fn of(path: &str) -> Option<Self> {
                let (service, _) = path.strip_prefix('/')?.split_once('/')?;
                match service {
                    $($full_name => Some(Self::$service),)*
                    _ => None,
                }
            }
        }

        /// A gRPC method of the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method {
            $($(#[doc = concat!("`/", $full_name, "/", $name, "`.")] $method,)*)*
        }

        impl Method {
            /// All methods, in the order of their numbers.
            pub const ALL: [Self; [$($($name),*),*].len()] = [$($(Self::$method),*),*];

            const ENTRIES: &[Entry; Self::ALL.len()] = &[$($(Entry {
                service: GrpcService::$service,
                name: $name,
                takes_stream: methods!(@takes_stream $requests),
                kind: Kind::$kind$((Operation::$operation))?,
            }),*),*];

            /// The method of a path (`/package.Service/Method`). `None` if the server has no such method.
            pub fn of(path: &str) -> Option<Self> {
                match path {
                    $($(concat!("/", $full_name, "/", $name) => Some(Self::$method),)*)*
                    _ => None,
                }
            }
        }
    };
}

// The methods with the most calls come first: a path is compared with the entries in this order. The metrics page has
// the same order. The word after the name says whether clients send one `message` or a `stream` of them.
methods! {
    Autoencoder "halfhitch.v1.AutoencoderService" {
        Encode "Encode" message Rows(Encode);
        Decode "Decode" message Rows(Decode);
        Reconstruct "Reconstruct" message Rows(Reconstruct);
        Score "Score" message Rows(Score);
        Impute "Impute" message Rows(Impute);
        EncodeStream "EncodeStream" stream RowsStream;
        DecodeStream "DecodeStream" stream RowsStream;
        Train "Train" stream Train;
    }
    Inference "inference.GRPCInferenceService" {
        ModelInfer "ModelInfer" message AnyRows;
        ModelStreamInfer "ModelStreamInfer" stream RowsStream;
        ServerLive "ServerLive" message Describe;
        ServerReady "ServerReady" message Describe;
        ServerMetadata "ServerMetadata" message Describe;
        ModelReady "ModelReady" message ReadModels;
        ModelMetadata "ModelMetadata" message ReadModels;
        ModelConfig "ModelConfig" message ReadModels;
        ModelStatistics "ModelStatistics" message ReadModels;
        RepositoryIndex "RepositoryIndex" message ReadModels;
        RepositoryModelLoad "RepositoryModelLoad" message ManageModels;
        RepositoryModelUnload "RepositoryModelUnload" message ManageModels;
    }
    Models "halfhitch.v1.ModelService" {
        ListModels "ListModels" message ReadModels;
        ListModelVersions "ListModelVersions" message ReadModels;
        GetModelVersion "GetModelVersion" message ReadModels;
        InspectModel "InspectModel" message ReadModels;
        ExportModelVersion "ExportModelVersion" message ReadModels;
        ImportModelVersion "ImportModelVersion" stream CreateVersion;
        CanonicalizeModelVersion "CanonicalizeModelVersion" message CreateVersion;
        OrthonormalizeModelVersion "OrthonormalizeModelVersion" message CreateVersion;
        DeleteModelVersion "DeleteModelVersion" message ManageModels;
        SetAlias "SetAlias" message ManageModels;
        DeleteAlias "DeleteAlias" message ManageModels;
    }
    Jobs "halfhitch.v1.JobService" {
        ListJobs "ListJobs" message Jobs;
        GetJob "GetJob" message Jobs;
        WatchJob "WatchJob" message Jobs;
        CancelJob "CancelJob" message Jobs;
        PauseJob "PauseJob" message Jobs;
        ResumeJob "ResumeJob" message Jobs;
    }
    Health "grpc.health.v1.Health" {
        CheckHealth "Check" message Health;
        // Not served, but probes that call it need no credential to learn that.
        ListHealth "List" message Health;
        WatchHealth "Watch" message Health;
    }
    Reflection "grpc.reflection.v1.ServerReflection" {
        Reflect "ServerReflectionInfo" stream Describe;
    }
    OlderReflection "grpc.reflection.v1alpha.ServerReflection" {
        ReflectOlder "ServerReflectionInfo" stream Describe;
    }
}

impl Method {
    const fn entry(self) -> &'static Entry {
        &Self::ENTRIES[self as usize]
    }

    /// The service of the method.
    pub const fn service(self) -> GrpcService {
        self.entry().service
    }

    /// Name without service.
    pub const fn name(self) -> &'static str {
        self.entry().name
    }

    /// Whether clients may send it an unbounded stream of messages.
    pub const fn takes_stream(self) -> bool {
        self.entry().takes_stream
    }

    /// What the method does.
    pub const fn kind(self) -> Kind {
        self.entry().kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_method_of_its_service_and_name() {
        for (number, method) in Method::ALL.into_iter().enumerate() {
            let path = format!("/{}/{}", method.service().name(), method.name());
            assert_eq!((method as usize, Method::of(&path)), (number, Some(method)), "{path}");
            assert_eq!(GrpcService::of(&path), Some(method.service()), "{path}");
        }
    }

    #[test]
    fn other_paths_have_no_method() {
        for path in ["", "/", "//", "/a/b", "/halfhitch.v1.JobService/Encode", "halfhitch.v1.JobService/GetJob"] {
            assert_eq!(Method::of(path), None, "{path}");
        }
        let path = "/halfhitch.v1.AutoencoderService/Encode/";
        assert_eq!((Method::of(path), GrpcService::of(path)), (None, Some(GrpcService::Autoencoder)));
        assert_eq!(GrpcService::of("/halfhitch.v1.AutoencoderService"), None);
    }
}
