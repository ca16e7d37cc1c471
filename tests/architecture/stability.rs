//! What a later release may add without breaking its users.

use std::collections::BTreeSet;

use syn::{Attribute, Fields, Item, ItemEnum, ItemStruct, ItemTrait, TypeParamBound, Visibility};

use crate::source::sources;

/// Public enums that callers match without a wildcard: a new variant is a new case that each of them has to
/// handle, so adding one is a breaking change on purpose.
const EXHAUSTIVE: &[&str] = &[
    "Confirmation",
    "Decision",
    "DeltaOutcome",
    "Ended",
    "Enqueued",
    "FailOutcome",
    "HoldOutcome",
    "Operation",
    "Outcome",
    "TransactionOutcome",
    // The standard and SQLite have no others.
    "Access",
    "Begin",
];

/// Public traits that users implement. A new method needs a default.
const IMPLEMENTED_BY_USERS: &[&str] =
    &["Observer", "RowKeys", "Strategy", "Transactor", "Unit", "VersionedEntity", "Wake"];

/// Public traits with a blanket implementation, which leaves no room for others.
const BLANKET: &[&str] = &[
    "HoldKey",
    "IdempotencyExt",
    "Key",
    "LeaderFn",
    "Repeatable",
    "RespondExt",
    "RowsFn",
    "RowsTxFn",
    "ScopeFn",
    "TransactorExt",
    "TxFn",
    "UnitError",
    "UnitFn",
];

/// The names of public items that the documentation shows.
struct Public {
    enums: BTreeSet<String>,
    structs: BTreeSet<String>,
    traits: BTreeSet<String>,
}

/// The public items that are not yet protected against additions.
fn unprotected() -> Public {
    let mut public = Public { enums: BTreeSet::new(), structs: BTreeSet::new(), traits: BTreeSet::new() };
    for source in sources() {
        collect(&source.parsed.items, &mut public);
    }
    public
}

fn collect(items: &[Item], public: &mut Public) {
    for item in items {
        match item {
            Item::Enum(item) if is_open_enum(item) => _ = public.enums.insert(item.ident.to_string()),
            Item::Struct(item) if is_open_struct(item) => _ = public.structs.insert(item.ident.to_string()),
            Item::Trait(item) if is_open_trait(item) => _ = public.traits.insert(item.ident.to_string()),
            _ => {}
        }
    }
}

fn is_open_enum(item: &ItemEnum) -> bool {
    is_shown(&item.vis, &item.attrs) && !has(&item.attrs, "non_exhaustive")
}

fn is_open_struct(item: &ItemStruct) -> bool {
    let all_public = match &item.fields {
        Fields::Unit => false,
        fields => fields.iter().all(|field| matches!(field.vis, Visibility::Public(_))),
    };
    is_shown(&item.vis, &item.attrs) && all_public && !has(&item.attrs, "non_exhaustive")
}

/// Whether the trait lacks a supertrait that only this crate can implement.
fn is_open_trait(item: &ItemTrait) -> bool {
    let sealed = item.supertraits.iter().any(|bound| match bound {
        TypeParamBound::Trait(bound) => {
            // `Backend` is sealed itself.
            let name = bound.path.segments.last().map(|segment| segment.ident.to_string());
            name.is_some_and(|name| name == "Sealed" || name == "Backend")
        }
        _ => false,
    });
    is_shown(&item.vis, &item.attrs) && !sealed
}

fn is_shown(visibility: &Visibility, attributes: &[Attribute]) -> bool {
    matches!(visibility, Visibility::Public(_)) && !attributes.iter().any(is_doc_hidden)
}

fn is_doc_hidden(attribute: &Attribute) -> bool {
    attribute.path().is_ident("doc")
        && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "hidden")
}

fn has(attributes: &[Attribute], name: &str) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident(name))
}

fn named(lists: &[&[&str]]) -> BTreeSet<String> {
    lists.iter().flat_map(|list| list.iter().map(|name| (*name).to_owned())).collect()
}

#[test]
fn enums_are_non_exhaustive_unless_listed() {
    assert_eq!(unprotected().enums, named(&[EXHAUSTIVE]));
}

#[test]
fn structs_of_public_fields_are_non_exhaustive() {
    assert_eq!(unprotected().structs, BTreeSet::new());
}

#[test]
fn traits_are_sealed_unless_listed() {
    assert_eq!(unprotected().traits, named(&[IMPLEMENTED_BY_USERS, BLANKET]));
}
