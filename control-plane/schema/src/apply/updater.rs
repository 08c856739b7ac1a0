//! Who owns what after a write, and what an applied configuration makes of an object.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use super::compare::{Comparison, compare};
use super::conflict::Conflict;
use super::element::Element;
use super::field_set::field_set;
use super::managed::{ManagerId, Managers, Owned};
use super::merge::merge;
use super::reconcile::reconcile;
use super::remove::remove;
use super::set::Set;
use super::typed::Type;
use super::validate::validate;

/// Takes objects from one version of their kind to another.
pub trait Converter {
    /// The type of the kind's objects in a version; `None` if there is no such version (any more).
    fn type_of(&self, version: &str) -> Option<Type<'_>>;

    /// The object in another version, which [`Self::type_of`] knows.
    ///
    /// # Errors
    /// It cannot be converted.
    fn convert(&self, object: &Value, version: &str) -> Result<Value, String>;
}

/// Why a configuration was not applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Others own what it would change.
    #[error("{}", super::conflict::message(.0))]
    Conflicts(Vec<Conflict>),
    /// It asks for what makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// It is not of the kind's type, or an object cannot be converted.
    #[error("{0}")]
    Other(String),
}

/// Which fields a request cannot write, whatever it says: nobody comes to own them by it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Filter {
    /// It can write all.
    #[default]
    None,
    /// These, and what is below them.
    Exclude(Set),
    /// All but these, and what is below them.
    Include(Set),
    /// All but what begins with one of these names of fields, and what is below them; none is any step.
    Matching(&'static [&'static [Option<&'static str>]]),
}

fn begins(path: &[Element], pattern: &[Option<&str>]) -> bool {
    let fits = |(step, name): (&Element, &Option<&str>)| match (step, name) {
        (_, None) => true,
        (Element::Field(field), Some(name)) => **field == **name,
        (_, Some(_)) => false,
    };
    path.len() >= pattern.len() && path.iter().zip(pattern).all(fits)
}

impl Filter {
    fn apply(&self, set: &Set) -> Set {
        match self {
            Self::None => set.clone(),
            Self::Exclude(excluded) => set.recursive_difference(excluded),
            Self::Include(included) => set.below(included),
            Self::Matching(patterns) => {
                let mut matching = Set::default();
                set.each(&mut |path| {
                    if patterns.iter().any(|pattern| begins(path, pattern)) {
                        matching.insert(path);
                    }
                });
                matching
            }
        }
    }

    fn apply_all(&self, comparison: Comparison) -> Comparison {
        match self {
            Self::None => comparison,
            filter => Comparison {
                removed: filter.apply(&comparison.removed),
                modified: filter.apply(&comparison.modified),
                added: filter.apply(&comparison.added),
            },
        }
    }
}

/// An object with its version and type.
#[derive(Clone, Debug)]
pub struct Typed<'a> {
    /// The object.
    pub value: Cow<'a, Value>,
    /// `apps/v1`.
    pub version: &'a str,
    /// The type in that version.
    pub ty: Type<'a>,
}

impl Typed<'_> {
    fn fields(&self) -> Set {
        field_set(self.ty, &self.value)
    }
}

/// The rules of ownership, for writes of one version and one part of an object.
#[derive(Debug)]
pub struct Updater<'a, C> {
    /// Converts objects.
    pub converter: &'a C,
    /// What the writes cannot touch, in the version of the writes.
    pub filter: &'a Filter,
}

impl<'a, C: Converter> Updater<'a, C> {
    /// The object in another version; `None` if there is no such version.
    fn at<'v: 'r, 'r>(&'r self, object: &'r Typed<'v>, version: &'r str) -> Result<Option<Typed<'r>>, Error> {
        if object.version == version {
            return Ok(Some(Typed { value: Cow::Borrowed(&object.value), version, ty: object.ty }));
        }
        let Some(ty) = self.converter.type_of(version) else { return Ok(None) };
        let value = self.converter.convert(&object.value, version).map_err(Error::Other)?;
        Ok(Some(Typed { value: Cow::Owned(value), version, ty }))
    }

    /// Who owns what after a write that was no apply. The writer's own set is replaced by what it changed and what it
    /// had.
    ///
    /// # Errors
    /// The object cannot be converted to a version that something is owned in.
    pub fn update(
        &self,
        live: &Typed<'_>,
        new: &Typed<'_>,
        managers: Managers,
        manager: &ManagerId,
    ) -> Result<Managers, Error> {
        let managers = self.reconciled(live, managers)?;
        let (mut managers, compared) = self.taken(live, new, managers, manager, true)?;
        let own = managers.remove(manager).map(|owned| owned.set).unwrap_or_default();
        let set = own.difference(&compared.removed).union(&compared.modified).union(&compared.added);
        let set = self.filter.apply(&set);
        if !set.is_empty() {
            managers.insert(manager.clone(), Owned { set, version: new.version.to_owned(), applied: false });
        }
        Ok(managers)
    }

    /// The object with an applied configuration in it, without what the manager applied before and no longer does and
    /// nobody else owns; and who owns what then. `None` if that is what there was.
    ///
    /// # Errors
    /// Conflicts with other managers, unless `force`.
    pub fn apply(
        &self,
        live: &Typed<'_>,
        configuration: &Typed<'_>,
        managers: Managers,
        manager: &ManagerId,
        force: bool,
    ) -> Result<(Option<Value>, Managers), Error> {
        let mut managers = self.reconciled(live, managers)?;
        validate(configuration.ty, &configuration.value).map_err(Error::Other)?;
        let merged = merge(live.ty, &live.value, &configuration.value)
            .map_err(|why| Error::Other(format!("failed to merge config: {why}")))?;
        let set = self.filter.apply(&configuration.fields());
        let version = configuration.version;
        let last = managers.insert(manager.clone(), Owned { set, version: version.to_owned(), applied: true });
        let merged = Typed { value: Cow::Owned(merged), version, ty: live.ty };
        let value = self.pruned(&merged, &managers, version, last.as_ref())?;
        let new = Typed { value: Cow::Owned(value), version, ty: live.ty };
        let (managers, _) = self.taken(live, &new, managers, manager, force)?;
        let changed = !super::element::equal(&live.value, &new.value);
        Ok((changed.then(|| new.value.into_owned()), managers))
    }

    /// Takes from the other managers what a write changes, and says what it changes.
    fn taken(
        &self,
        old: &Typed<'_>,
        new: &Typed<'_>,
        mut managers: Managers,
        writer: &ManagerId,
        force: bool,
    ) -> Result<(Managers, Comparison), Error> {
        let compared = self.filter.apply_all(compare(old.ty, &old.value, &new.value));
        // In the versions of the other managers.
        let mut versions: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
        let mut taken: Vec<(ManagerId, Set)> = Vec::new();
        let mut conflicts = Vec::new();
        let mut missing = Vec::new();
        for (id, owned) in managers.iter().filter(|(id, _)| *id != writer) {
            let theirs = if owned.version == new.version {
                Some(&compared)
            } else {
                if !versions.contains_key(&owned.version) {
                    let there = self.at(old, &owned.version)?.zip(self.at(new, &owned.version)?);
                    let there = there.map(|(old, new)| compare(old.ty, &old.value, &new.value));
                    versions.insert(owned.version.clone(), there);
                }
                versions[&owned.version].as_ref()
            };
            let Some(theirs) = theirs else {
                missing.push(id.clone());
                continue;
            };
            let conflict = owned.set.intersection(&theirs.modified.union(&theirs.added));
            conflict.each(&mut |path| conflicts.push(Conflict { manager: id.clone(), path: path.to_vec() }));
            if !conflict.is_empty() || !theirs.removed.is_empty() {
                taken.push((id.clone(), conflict.union(&theirs.removed)));
            }
        }
        if !force && !conflicts.is_empty() {
            return Err(Error::Conflicts(conflicts));
        }
        for id in missing {
            managers.remove(&id);
        }
        for (id, set) in taken {
            if let Some(owned) = managers.get_mut(&id) {
                owned.set = owned.set.difference(&set);
            }
        }
        managers.retain(|_, owned| !owned.set.is_empty());
        Ok((managers, compared))
    }

    fn reconciled(&self, live: &Typed<'_>, mut managers: Managers) -> Result<Managers, Error> {
        let known = |version: &str| version == live.version || self.converter.type_of(version).is_some();
        managers.retain(|_, owned| known(&owned.version));
        for owned in managers.values_mut() {
            let ty = if owned.version == live.version { Some(live.ty) } else { self.converter.type_of(&owned.version) };
            if let Some(set) = ty.and_then(|ty| reconcile(ty, &owned.set)) {
                owned.set = set;
            }
        }
        Ok(managers)
    }

    /// The merged object without what the manager applied last time, did not apply this time, and nobody else owns.
    fn pruned(
        &self,
        merged: &Typed<'_>,
        managers: &Managers,
        version: &str,
        last: Option<&Owned>,
    ) -> Result<Value, Error> {
        let whole = || Ok(merged.value.clone().into_owned());
        let Some(last) = last.filter(|last| !last.set.is_empty()) else { return whole() };
        let Some(there) = self.at(merged, &last.version)? else { return whole() };
        let value = remove(there.ty, &there.value, &last.set.with_named_fields(Some(there.ty)));
        let pruned = Typed { value: Cow::Owned(value), version: &last.version, ty: there.ty };
        let pruned = self.with_owned(&there, pruned, managers)?;
        let pruned = self.at(&pruned, &last.version)?.map(|typed| typed.fields());
        let Some(pruned) = pruned else { return whole() };
        // What is gone now goes only if the manager had it.
        let ty = Some(there.ty);
        let gone = there.fields().with_named_fields(ty).difference(&pruned.with_named_fields(ty));
        let gone = gone.intersection(&last.set.with_named_fields(ty));
        let value = remove(there.ty, &there.value, &gone);
        let result = Typed { value: Cow::Owned(value), version: &last.version, ty: there.ty };
        match self.at(&result, version)? {
            Some(result) => Ok(result.value.into_owned()),
            None => whole(),
        }
    }

    /// Puts back what was pruned and somebody owns, in each version that something is owned in.
    fn with_owned<'r>(
        &'r self,
        merged: &Typed<'r>,
        mut pruned: Typed<'r>,
        managers: &'r Managers,
    ) -> Result<Typed<'r>, Error> {
        let mut owned: BTreeMap<&'r str, Set> = BTreeMap::new();
        for one in managers.values() {
            let set = owned.entry(&one.version).or_default();
            *set = set.union(&one.set);
        }
        let first = owned.remove_entry(merged.version);
        for (version, set) in first.into_iter().chain(owned) {
            let (whole, part) = {
                let (Some(whole), Some(part)) = (self.at(merged, version)?, self.at(&pruned, version)?) else {
                    continue;
                };
                (whole.value.into_owned(), part.value.into_owned())
            };
            let Some(ty) = self.type_of(merged, version) else { continue };
            let named = |set: &Set| set.with_named_fields(Some(ty));
            let gone = named(&field_set(ty, &whole));
            let gone = gone.difference(&named(&field_set(ty, &part)).union(&named(&set)));
            pruned = Typed { value: Cow::Owned(remove(ty, &whole, &gone)), version, ty };
        }
        Ok(pruned)
    }

    fn type_of<'r>(&'r self, object: &Typed<'r>, version: &str) -> Option<Type<'r>> {
        if object.version == version { Some(object.ty) } else { self.converter.type_of(version) }
    }
}
