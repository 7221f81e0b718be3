//! An OTLP/HTTP sender that behaves as a good SDK does: it sends again what was refused for now.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

#[derive(Clone)]
pub struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    pub to: SocketAddr,
}

impl Sender {
    pub fn to(to: SocketAddr) -> Sender {
        Sender { client: Client::builder(TokioExecutor::new()).build_http(), to }
    }

    /// Posts one protobuf request, once. `None`: no answer came.
    pub async fn post(&self, body: Vec<u8>) -> Option<(StatusCode, Bytes)> {
        let request = Request::post(format!("http://{}/v1/traces", self.to))
            .header("content-type", "application/x-protobuf")
            .body(Full::from(body))
            .unwrap();
        let answer = self.client.request(request).await.ok()?;
        let status = answer.status();
        Some((status, answer.into_body().collect().await.ok()?.to_bytes()))
    }

    /// Posts until the node has taken it; `false` if the node is gone.
    pub async fn deliver(&self, body: Vec<u8>) -> bool {
        for _ in 0..600 {
            match self.post(body.clone()).await {
                Some((StatusCode::OK, _)) => return true,
                Some((StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _)) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Some((status, body)) => panic!("{status}: {}", String::from_utf8_lossy(&body)),
                None => return false,
            }
        }
        panic!("{} refused for a minute", self.to);
    }
}
