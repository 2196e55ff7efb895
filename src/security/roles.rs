//! Roles, and what each kind of method requires.

use std::fmt;
use std::str::FromStr;

use crate::methods::{Kind, Method};

/// Role of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs inference and reads models.
    Infer,
    /// Creates versions by training or import, and manages jobs.
    Train,
    /// Everything, including aliases, deletion, loading and unloading.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Infer, Self::Train, Self::Admin];

    fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Train => "train",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(())
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// The set with one more role.
    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Self(self.0 | 1 << role as u8)
    }

    /// Whether the set contains the role.
    pub const fn has(self, role: Role) -> bool {
        self.0 & 1 << role as u8 != 0
    }
}

/// What a method requires of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: no credential is needed.
    Nothing,
    /// Any valid credential.
    Known,
    /// Either of two roles, or `admin`.
    Either(Role, Role),
    /// The given role, or `admin`.
    Role(Role),
}

impl Need {
    /// What a method requires. An unknown method requires `admin`.
    pub const fn of(method: Option<Method>) -> Self {
        let Some(method) = method else { return Self::Role(Role::Admin) };
        match method.kind() {
            Kind::Health => Self::Nothing,
            Kind::Describe => Self::Known,
            Kind::Rows(_) | Kind::AnyRows | Kind::RowsStream => Self::Role(Role::Infer),
            Kind::ReadModels => Self::Either(Role::Infer, Role::Train),
            Kind::Train | Kind::Jobs | Kind::CreateVersion => Self::Role(Role::Train),
            Kind::ManageModels => Self::Role(Role::Admin),
        }
    }

    /// Whether a valid credential with these roles meets the requirement.
    pub fn is_met_by(self, roles: Roles) -> bool {
        let has = |role| roles.has(role) || roles.has(Role::Admin);
        match self {
            Self::Nothing | Self::Known => true,
            Self::Either(one, other) => has(one) || has(other),
            Self::Role(role) => has(role),
        }
    }

    /// The requirement in words, for errors.
    pub fn expected(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Known => "any role",
            Self::Either(..) => "the role infer, train or admin",
            Self::Role(Role::Infer) => "the role infer or admin",
            Self::Role(Role::Train) => "the role train or admin",
            Self::Role(Role::Admin) => "the role admin",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(path: &str, roles: &[Role]) -> bool {
        Need::of(Method::of(path)).is_met_by(roles.iter().fold(Roles::default(), |roles, role| roles.with(*role)))
    }

    #[test]
    fn roles_allow_only_their_methods_and_admin_allows_all() {
        let encode = "/halfhitch.v1.AutoencoderService/Encode";
        let train = "/halfhitch.v1.AutoencoderService/Train";
        let alias = "/halfhitch.v1.ModelService/SetAlias";
        assert!(may(encode, &[Role::Infer]) && !may(train, &[Role::Infer]) && !may(alias, &[Role::Infer]));
        assert!(!may(encode, &[Role::Train]) && may(train, &[Role::Train]) && !may(alias, &[Role::Train]));
        assert!(may(encode, &[Role::Admin]) && may(train, &[Role::Admin]) && may(alias, &[Role::Admin]));
        assert!(!may(alias, &[Role::Infer, Role::Train]));
    }

    #[test]
    fn unknown_methods_need_the_admin_role() {
        for path in ["", "/", "//", "/a/b", "/halfhitch.v1.AutoencoderService/Encode/", "/halfhitch.v1.JobService/New"]
        {
            assert_eq!(Need::of(Method::of(path)), Need::Role(Role::Admin), "{path}");
        }
    }
}
