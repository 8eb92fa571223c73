//! Field masks (AIP-134, AIP-161): which fields an update changes.
//!
//! Owns what holds for every resource: the spelling of paths, the fields that a request fills, and what is said about a
//! path that can't be used.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};
use prost_types::FieldMask;

use crate::error::ConvertError;

/// Longest part of a path that an answer repeats, in characters.
const SHOWN_CHARS_MAX: usize = 128;
/// Fields that say which resource is meant, and in which state. A mask may name them; they are not changed.
const ADDRESS: [&str; 2] = ["name", "etag"];

/// The paths that a mask names, as users wrote them. `None` if there is no mask: then the update changes the fields that
/// it fills.
pub(super) fn named(mask: Option<&FieldMask>) -> Option<&[String]> {
    mask.map(|mask| mask.paths.as_slice()).filter(|paths| !paths.is_empty())
}

/// A path in the spelling of the `.proto` files: `records.onLoss`, as JSON has it, becomes `records.on_loss`.
pub(super) fn snake_case(path: &str) -> String {
    let mut snake = String::with_capacity(path.len());
    for character in path.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

/// Does the path (in snake case) name a field that is no value of the resource, such as `etag`?
pub(super) fn is_address(path: &str) -> bool {
    ADDRESS.contains(&path)
}

/// What is said about a path that names no field which can be changed.
pub(super) fn refusal(path: &str, of: &str, output_only: &[&str]) -> String {
    let shown: String = path.chars().take(SHOWN_CHARS_MAX).collect();
    let snake = snake_case(path);
    let first = snake.split('.').next().unwrap_or_default();
    if output_only.contains(&first) {
        return format!("{shown:?} is output only: the mesh sets it, leave it out of the mask");
    }
    format!(
        "{shown:?} is not a field of a {of} that can be changed: give paths such as \
         {{\"paths\":[\"{}\"]}}, without spaces or commas in a path",
        if of == "flow" { "records.on_loss" } else { "bootstrap_servers" }
    )
}

/// A message by the names of its fields.
#[derive(Debug, Clone)]
pub(super) struct Fields(DynamicMessage);

/// What the public API's messages are made of.
static MESSAGES: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(crate::PUBLIC_DESCRIPTORS).ok());

impl Fields {
    /// Of a message of the public API.
    pub(super) fn of<M: Message + Name>(message: &M) -> Result<Self, ConvertError> {
        let name = M::full_name();
        let unknown = || ConvertError::new("", format!("the message {name} is not described"));
        let described =
            MESSAGES.as_ref().and_then(|pool| pool.get_message_by_name(&name)).ok_or_else(unknown)?;
        let mut fields = DynamicMessage::new(described);
        fields.transcode_from(message).map_err(|error| ConvertError::new("", error))?;
        Ok(Self(fields))
    }

    /// The message.
    pub(super) fn message<M: Message + Default>(&self) -> Result<M, ConvertError> {
        self.0.transcode_to().map_err(|error| ConvertError::new("", error))
    }

    /// Sets the field that a path (in snake case) names to its value in `update`, or clears it where the update does not
    /// have it; `false` if no path of fields is named so. A member of a oneof is cleared only if it is the one that is set.
    pub(super) fn set(&mut self, update: &Self, path: &str) -> bool {
        set(&mut self.0, Some(&update.0), path)
    }

    /// Paths of the fields that are set, but for the names in `left_out` and those that say which resource is meant:
    /// numbers, texts and switches other than the default, lists and maps with an entry, members of a oneof. A message counts
    /// by the fields in it, so an empty one counts for nothing.
    pub(super) fn filled(&self, left_out: &[&str]) -> Vec<String> {
        let mut paths = Vec::new();
        filled(&self.0, "", &mut paths);
        paths.retain(|path| {
            let first = path.split('.').next().unwrap_or_default();
            !left_out.contains(&first) && !is_address(first)
        });
        paths
    }
}

/// A message of this API that has fields of its own: no list, no map, and no type of Google's, which is one value.
fn inner(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let Kind::Message(message) = field.kind() else { return None };
    let is_single = !field.is_list() && !field.is_map();
    (is_single && !message.full_name().starts_with("google.")).then_some(message)
}

/// Only one of a few fields can be set.
fn is_alternative(field: &FieldDescriptor) -> bool {
    field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic())
}

fn set(merged: &mut DynamicMessage, update: Option<&DynamicMessage>, path: &str) -> bool {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let Some(field) = merged.descriptor().get_field_by_name(name) else { return false };
    let new = update.filter(|update| update.has_field(&field)).map(|update| update.get_field(&field));
    let Some(rest) = rest else {
        match new {
            Some(new) => merged.set_field(&field, new.into_owned()),
            None => merged.clear_field(&field),
        }
        return true;
    };
    let Some(message) = inner(&field) else { return false };
    let new = new.as_deref().and_then(Value::as_message);
    if new.is_none() && !merged.has_field(&field) {
        // Nothing is there to be cleared. Whether there is such a path shows all the same.
        return set(&mut DynamicMessage::new(message), None, rest);
    }
    merged.get_field_mut(&field).as_message_mut().is_some_and(|inner| set(inner, new, rest))
}

fn filled(message: &DynamicMessage, before: &str, paths: &mut Vec<String>) {
    for (field, value) in message.fields() {
        let path = format!("{before}{}", field.name());
        match value.as_message() {
            Some(within) if inner(&field).is_some() && !is_alternative(&field) => {
                filled(within, &format!("{path}."), paths);
            }
            _ => paths.push(path),
        }
    }
}
