//! OTLP's trace messages as tables: number, JSON name and type of each field.
//!
//! Three readers need the same knowledge: the strict check of attribute values, the JSON reader and the JSON writer.
//! With a table each of them is one loop with an explicit stack; with code per message each would be fourteen
//! functions that recurse. Source: opentelemetry-proto 1.11, `trace.proto`, `common.proto`, `resource.proto`.

use super::reader::{FIXED32, FIXED64, LEN, VARINT, tag};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Request,
    ResourceSpans,
    Resource,
    EntityRef,
    ScopeSpans,
    Scope,
    Span,
    Event,
    Link,
    Status,
    KeyValue,
    AnyValue,
    ArrayValue,
    KeyValueList,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Bytes,
    /// 16 bytes, hex in JSON.
    TraceId,
    /// 8 bytes, hex in JSON.
    SpanId,
    Bool,
    Int64,
    Uint32,
    /// The names of the values 0, 1, 2...
    Enum(&'static [&'static str]),
    Fixed32,
    Fixed64,
    Double,
    /// An index into a string table that only the profiles signal has; elsewhere to be taken as absent.
    Reference,
    Message(Message),
}

impl Type {
    pub(super) fn wire_type(self) -> u32 {
        match self {
            Type::Text | Type::Bytes | Type::TraceId | Type::SpanId | Type::Message(_) => LEN,
            Type::Bool | Type::Int64 | Type::Uint32 | Type::Enum(_) | Type::Reference => VARINT,
            Type::Fixed32 => FIXED32,
            Type::Fixed64 | Type::Double => FIXED64,
        }
    }
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) ty: Type,
    pub(super) repeated: bool,
}

impl Field {
    pub(super) fn tag(&self) -> u32 {
        tag(self.number, self.ty.wire_type())
    }
}

const fn one(number: u32, name: &'static str, ty: Type) -> Field {
    Field { number, name, ty, repeated: false }
}

const fn many(number: u32, name: &'static str, ty: Type) -> Field {
    Field { number, name, ty, repeated: true }
}

const SPAN_KINDS: &[&str] = &[
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];
const STATUS_CODES: &[&str] = &["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

const ATTRIBUTE: Type = Type::Message(Message::KeyValue);

const REQUEST: &[Field] = &[many(1, "resourceSpans", Type::Message(Message::ResourceSpans))];
const RESOURCE_SPANS: &[Field] = &[
    one(1, "resource", Type::Message(Message::Resource)),
    many(2, "scopeSpans", Type::Message(Message::ScopeSpans)),
    one(3, "schemaUrl", Type::Text),
];
const RESOURCE: &[Field] = &[
    many(1, "attributes", ATTRIBUTE),
    one(2, "droppedAttributesCount", Type::Uint32),
    many(3, "entityRefs", Type::Message(Message::EntityRef)),
];
const ENTITY_REF: &[Field] = &[
    one(1, "schemaUrl", Type::Text),
    one(2, "type", Type::Text),
    many(3, "idKeys", Type::Text),
    many(4, "descriptionKeys", Type::Text),
];
const SCOPE_SPANS: &[Field] = &[
    one(1, "scope", Type::Message(Message::Scope)),
    many(2, "spans", Type::Message(Message::Span)),
    one(3, "schemaUrl", Type::Text),
];
const SCOPE: &[Field] = &[
    one(1, "name", Type::Text),
    one(2, "version", Type::Text),
    many(3, "attributes", ATTRIBUTE),
    one(4, "droppedAttributesCount", Type::Uint32),
];
const SPAN: &[Field] = &[
    one(1, "traceId", Type::TraceId),
    one(2, "spanId", Type::SpanId),
    one(3, "traceState", Type::Text),
    one(4, "parentSpanId", Type::SpanId),
    one(5, "name", Type::Text),
    one(6, "kind", Type::Enum(SPAN_KINDS)),
    one(7, "startTimeUnixNano", Type::Fixed64),
    one(8, "endTimeUnixNano", Type::Fixed64),
    many(9, "attributes", ATTRIBUTE),
    one(10, "droppedAttributesCount", Type::Uint32),
    many(11, "events", Type::Message(Message::Event)),
    one(12, "droppedEventsCount", Type::Uint32),
    many(13, "links", Type::Message(Message::Link)),
    one(14, "droppedLinksCount", Type::Uint32),
    one(15, "status", Type::Message(Message::Status)),
    one(16, "flags", Type::Fixed32),
];
const EVENT: &[Field] = &[
    one(1, "timeUnixNano", Type::Fixed64),
    one(2, "name", Type::Text),
    many(3, "attributes", ATTRIBUTE),
    one(4, "droppedAttributesCount", Type::Uint32),
];
const LINK: &[Field] = &[
    one(1, "traceId", Type::TraceId),
    one(2, "spanId", Type::SpanId),
    one(3, "traceState", Type::Text),
    many(4, "attributes", ATTRIBUTE),
    one(5, "droppedAttributesCount", Type::Uint32),
    one(6, "flags", Type::Fixed32),
];
const STATUS: &[Field] = &[one(2, "message", Type::Text), one(3, "code", Type::Enum(STATUS_CODES))];
const KEY_VALUE: &[Field] = &[
    one(1, "key", Type::Text),
    one(2, "value", Type::Message(Message::AnyValue)),
    one(3, "keyStrindex", Type::Reference),
];
const ANY_VALUE: &[Field] = &[
    one(1, "stringValue", Type::Text),
    one(2, "boolValue", Type::Bool),
    one(3, "intValue", Type::Int64),
    one(4, "doubleValue", Type::Double),
    one(5, "arrayValue", Type::Message(Message::ArrayValue)),
    one(6, "kvlistValue", Type::Message(Message::KeyValueList)),
    one(7, "bytesValue", Type::Bytes),
    one(8, "stringValueStrindex", Type::Reference),
];
const ARRAY_VALUE: &[Field] = &[many(1, "values", Type::Message(Message::AnyValue))];
const KEY_VALUE_LIST: &[Field] = &[many(1, "values", ATTRIBUTE)];

impl Message {
    /// In the order of their numbers.
    pub(super) fn fields(self) -> &'static [Field] {
        match self {
            Message::Request => REQUEST,
            Message::ResourceSpans => RESOURCE_SPANS,
            Message::Resource => RESOURCE,
            Message::EntityRef => ENTITY_REF,
            Message::ScopeSpans => SCOPE_SPANS,
            Message::Scope => SCOPE,
            Message::Span => SPAN,
            Message::Event => EVENT,
            Message::Link => LINK,
            Message::Status => STATUS,
            Message::KeyValue => KEY_VALUE,
            Message::AnyValue => ANY_VALUE,
            Message::ArrayValue => ARRAY_VALUE,
            Message::KeyValueList => KEY_VALUE_LIST,
        }
    }

    pub(super) fn field(self, number: u32) -> Option<&'static Field> {
        // Nearly all messages use the numbers from 1 on without a gap.
        let fields = self.fields();
        match fields.get((number as usize).wrapping_sub(1)) {
            Some(field) if field.number == number => Some(field),
            _ => fields.iter().find(|field| field.number == number),
        }
    }

    /// Of all fields of this message at most one is set, and the last one wins.
    pub(super) fn is_oneof(self) -> bool {
        self == Message::AnyValue
    }

    /// One level of nesting of an attribute value.
    pub(super) fn is_list(self) -> bool {
        matches!(self, Message::ArrayValue | Message::KeyValueList)
    }
}
