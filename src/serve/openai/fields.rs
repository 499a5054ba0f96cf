//! The fields of a JSON object, taken one by one with the errors that OpenAI's API gives.

use super::super::error::ApiError;
use serde_json::{Map, Value};

/// A request's JSON object.
pub(in crate::serve) struct Fields(Map<String, Value>);

impl Fields {
    /// # Errors
    /// If the bytes are no JSON object.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        // The parser's own message quotes nothing of the text, only where it stopped.
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(ApiError::body(
                "the body is JSON, but no object: expected {...}",
            )),
            Err(error) => Err(ApiError::body(format!(
                "the body is no JSON: line {}, column {}",
                error.line(),
                error.column()
            ))),
        }
    }

    /// The field, unless it is missing or null.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A string.
    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(name, "a string", &other)),
        }
    }

    /// True or false.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(wrong_type(name, "true or false", &other)),
        }
    }

    /// A number from `least` to `most`.
    pub(crate) fn number(
        &mut self,
        name: &str,
        least: f64,
        most: f64,
    ) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            Some(number) => Err(ApiError::field(
                name,
                "out_of_range",
                format!("{name} is {number}, expected {least} to {most}"),
            )),
            None => Err(wrong_type(name, "a number", &value)),
        }
    }

    /// A whole number of at least `least`.
    pub(crate) fn whole(&mut self, name: &str, least: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match value.as_i64() {
            Some(number) if number >= least => Ok(Some(number)),
            Some(number) => Err(ApiError::field(
                name,
                "out_of_range",
                format!("{name} is {number}, expected at least {least}"),
            )),
            None => Err(wrong_type(name, "a whole number", &value)),
        }
    }

    /// Refuses a field that is not supported, unless it says what happens anyway.
    pub(crate) fn only(&mut self, name: &str, neutral: fn(&Value) -> bool) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !neutral(&value) => Err(ApiError::field(
                name,
                "unsupported_parameter",
                format!("{name} is not supported by this server: leave it out"),
            )),
            _ => Ok(()),
        }
    }
}

/// 400 for a value of the wrong kind.
pub(in crate::serve) fn wrong_type(name: &str, expected: &str, found: &Value) -> ApiError {
    let kind = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    ApiError::field(
        name,
        "invalid_type",
        format!("{name} is {kind}, expected {expected}"),
    )
}
