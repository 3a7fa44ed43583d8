# frozen_string_literal: true

require "json"
require "securerandom"
require "time"

module TaskerCore
  module StepHandler
    # An answer of another system. The body is what its JSON says, or the text; headers are by lower-case name.
    ApiResponse = Struct.new(:status, :headers, :body) do
      # Whether it is a 2xx.
      def success?
        (200..299).cover?(status)
      end
      alias_method :ok?, :success?

      # Whether trying again may help.
      def retryable?
        Mixins::API::RETRYABLE.include?(status)
      end

      # Seconds, where `Retry-After` says so: a number or a date.
      def retry_after
        said = headers["retry-after"].to_s.strip
        return said.to_f if said.match?(/\A\d+\z/)

        said.empty? ? nil : [0.0, Time.httpdate(said) - Time.now].max
      rescue ArgumentError
        nil
      end
    end

    module Mixins
      # Requests to other systems over HTTP, with Faraday (the gem `faraday`, or the package ruby-faraday).
      #
      # `get` and its kin raise for an answer that is no success: permanent or retryable by its status, after its
      # `Retry-After`. `request` raises for none. Redirects are not followed. An error of the connection raises
      # Errors::NetworkError or Errors::TimeoutError.
      #
      # The settings of the step may say `url`, `timeout`, `open_timeout`, `headers` and `params`.
      module API
        RETRYABLE = [408, 429, 500, 502, 503, 504].freeze

        # Class methods: what requests begin with.
        module Settings
          # Where paths begin.
          def base_url(url = nil)
            @base_url = url if url
            @base_url || (superclass.respond_to?(:base_url) ? superclass.base_url : nil)
          end

          # Headers of every request.
          def default_headers(headers = nil)
            @default_headers = headers if headers
            @default_headers || (superclass.respond_to?(:default_headers) ? superclass.default_headers : {})
          end

          # Seconds for a request.
          def default_timeout(seconds = nil)
            @default_timeout = seconds if seconds
            @default_timeout || (superclass.respond_to?(:default_timeout) ? superclass.default_timeout : 30)
          end
        end

        def self.included(handler)
          super
          handler.extend(Settings)
        end

        # For people.
        def capabilities
          super + %w[http api]
        end

        # The connection, made once.
        def connection
          @connection ||= new_connection
        end

        # A connection that the block may set up further: authorization, certificates, another adapter.
        def configure_connection(&block)
          @connection = new_connection(&block)
        end

        def get(path, params: {}, headers: {})
          process_response(request(:get, path, params:, headers:))
        end

        def post(path, data: {}, headers: {})
          process_response(request(:post, path, data:, headers:))
        end

        def put(path, data: {}, headers: {})
          process_response(request(:put, path, data:, headers:))
        end

        def patch(path, data: {}, headers: {})
          process_response(request(:patch, path, data:, headers:))
        end

        def delete(path, params: {}, headers: {})
          process_response(request(:delete, path, params:, headers:))
        end

        # One request, whatever comes of it. `data` is sent as JSON unless it is text.
        def request(method, path, params: {}, data: nil, headers: {})
          body = data.nil? || data.is_a?(String) ? data : JSON.generate(data)
          headers = { "Content-Type" => "application/json" }.merge(headers) if body && !body.equal?(data)
          sent(connection, method, path, body, headers, params)
        end

        # Sends a file as a form does.
        def api_upload_file(path, file_path, field_name: "file", additional_fields: {})
          raise Errors::NotFoundError, "there is no file #{file_path}" unless File.file?(file_path)

          boundary = SecureRandom.hex(16)
          parts = additional_fields.map { |name, value| "name=\"#{name}\"\r\n\r\n#{value}".b }
          file = "name=\"#{field_name}\"; filename=\"#{File.basename(file_path)}\"\r\n"
          parts << ("#{file}Content-Type: application/octet-stream\r\n\r\n".b + File.binread(file_path))
          body = parts.map { |part| "--#{boundary}\r\nContent-Disposition: form-data; ".b + part + "\r\n".b }.join
          headers = { "Content-Type" => "multipart/form-data; boundary=#{boundary}" }
          process_response(request(:post, path, data: body + "--#{boundary}--\r\n".b, headers:))
        end

        # All items of an answer in pages, or each page to the block. A page is an object with `data` and, where there is
        # a next one, its cursor under `pagination_key` there or in `meta` or `pagination`.
        def api_paginated_request(path, method: :get, pagination_key: "cursor", limit_key: "limit", limit: 100,
                                  max_pages: 100)
          items, cursor = [], nil
          max_pages.times do
            params = { limit_key => limit, pagination_key => cursor }.compact
            page = process_response(request(method, path, params:)).body
            raise Errors::PermanentError, "a page of #{path} is no object" unless page.is_a?(Hash)

            found = page["data"] || []
            block_given? ? yield(found) : items.concat(found)
            cursor = [page, page["meta"], page["pagination"]].grep(Hash).filter_map { |at| at[pagination_key] }.first
            break if cursor.nil? || found.empty?
          end
          items
        end

        # The request succeeded.
        def api_success(data:, status: 200, headers: {}, execution_time_ms: nil, metadata: {})
          result = { "data" => data, "status" => status, "headers" => headers,
                     "execution_time_ms" => execution_time_ms }.compact
          success(result: result, metadata: { "api_call" => true, **metadata })
        end

        # The request failed: retryable by its status, after its `Retry-After`.
        def api_failure(message:, status: nil, error_type: nil, headers: {}, execution_time_ms: nil, metadata: {})
          response = ApiResponse.new(status, headers.to_h.transform_keys { |name| name.to_s.downcase })
          said = { "api_call" => true, "status" => status, "execution_time_ms" => execution_time_ms }.compact
          failure(
            message: message,
            error_type: error_type || (response.retryable? ? "retryable_error" : "permanent_error"),
            error_code: status && "HTTP_#{status}",
            retryable: response.retryable?,
            metadata: { **said, **metadata },
            retry_after: response.retry_after
          )
        end

        # The answer, where it is a success; else raises what the status stands for.
        def process_response(response)
          return response if response.success?

          failed = response.retryable? ? retryable_error(response.status) : permanent_error(response.status)
          more = response.retryable? ? { retry_after: response.retry_after } : {}
          metadata = { "status" => response.status, "body" => response.body }
          raise failed.new("HTTP #{response.status}", error_code: "HTTP_#{response.status}", metadata:, **more)
        end

        private

        def sent(connection, method, path, body, headers, params)
          answer = connection.run_request(method, path, body, headers) { |request| request.params.update(params) }
          ApiResponse.new(answer.status, answer.headers.to_h.transform_keys(&:downcase), parsed(answer.body))
        rescue Faraday::TimeoutError => e
          raise Errors::TimeoutError, "#{method.to_s.upcase} #{path}: #{e.message}"
        rescue Faraday::ConnectionFailed, Faraday::SSLError => e
          raise Errors::NetworkError, "#{method.to_s.upcase} #{path}: #{e.message}"
        end

        def retryable_error(status)
          { 408 => Errors::TimeoutError, 429 => Errors::RateLimitError, 503 => Errors::ServiceUnavailableError }
            .fetch(status, Errors::RetryableError)
        end

        def permanent_error(status)
          { 400 => Errors::ValidationError, 401 => Errors::AuthenticationError, 403 => Errors::AuthorizationError,
            404 => Errors::NotFoundError, 422 => Errors::ValidationError }.fetch(status, Errors::PermanentError)
        end

        def new_connection
          require_faraday
          Faraday.new(url: setting("url") || self.class.base_url) do |made|
            made.options.timeout = setting("timeout") || self.class.default_timeout
            made.options.open_timeout = setting("open_timeout") if setting("open_timeout")
            made.headers.update(self.class.default_headers.merge(setting("headers") || {}))
            made.params.update(setting("params") || {})
            yield made if block_given?
            made.adapter(Faraday.default_adapter) unless has_adapter?(made)
          end
        end

        def has_adapter?(made)
          made.builder.respond_to?(:adapter) && made.builder.instance_variable_get(:@adapter)
        end

        def require_faraday
          require "faraday"
        rescue LoadError
          remedy = "gem install faraday, or apt-get install ruby-faraday"
          raise Errors::ConfigurationError, "requests need Faraday, which can't be loaded: #{remedy}"
        end

        def setting(name)
          config.is_a?(Hash) ? config[name] || config[name.to_sym] : nil
        end

        def parsed(body)
          return nil if body.nil? || body.empty?

          text = String.new(body).force_encoding(Encoding::UTF_8)
          JSON.parse(text, max_nesting: false)
        rescue JSON::ParserError, EncodingError
          text.scrub("?")
        end
      end
    end

    # A handler that makes requests.
    class Api < Base
      include Mixins::API
    end
  end
end
