# frozen_string_literal: true

require "json"
require "net/http"
require "optparse"
require "tasker_core"

module TaskerCore
  # `tasker-worker-ruby --handlers DIR [--templates DIR]`.
  class Command
    BANNER = "usage: tasker-worker-ruby --handlers DIR|LIBRARY [--templates DIR] [--namespace NAME]"
    LEVELS = %w[DEBUG INFO WARN ERROR].freeze

    # Runs the command; answers its exit status: 0 done, 1 failed, 2 wrong usage.
    def self.run(arguments)
      new(arguments).run
    rescue OptionParser::ParseError => e
      warn "error: #{e.message}\n#{BANNER}"
      2
    rescue Error, LoadError, SystemCallError => e
      warn "error: #{e.message}"
      1
    end

    def initialize(arguments)
      @handlers, @namespaces, @templates = [], [], nil
      left = options.parse(arguments)
      raise OptionParser::InvalidArgument, left.first unless left.empty?
      raise OptionParser::MissingArgument, "--handlers" if @handlers.empty?
    end

    def run
      @registry = Registry::HandlerRegistry.instance
      @handlers.each { |place| discover(place) }
      Templates.register(@templates) if @templates
      # Before the start, so that none is missed.
      signals = Thread::Queue.new
      %w[TERM INT USR1 USR2].each { |name| trap(name) { signals << name } }
      variables = @namespaces.empty? ? {} : { "TASKER__WORKER__NAMESPACES" => @namespaces.join(",") }
      worker = Worker::Bootstrap.start!(registry: @registry, variables: variables)
      say("worker #{worker.worker_id} runs #{@registry.registered_handlers.join(", ")}")
      Thread.new { signals << (worker.wait && "ended") }
      serve(signals)
    end

    private

    def options
      OptionParser.new(BANNER) do |parser|
        parser.separator("Runs the handlers of folders and libraries until it is told to stop.")
        parser.on("--handlers DIR|LIBRARY", "may be repeated") { |place| @handlers << place }
        parser.on("--templates DIR", "register the templates of this folder at the server first") { |dir| @templates = dir }
        parser.on("--namespace NAME", "claim from this namespace only; may be repeated") { |name| @namespaces << name }
        parser.on("--log-level LEVEL", LEVELS, LEVELS.join(", ")) { |level| TaskerCore.logger.level = level }
        parser.on("--version") { say(Native.package) || exit }
      end
    end

    def discover(place)
      found = File.directory?(place) ? @registry.discover_folder(place) : of_library(place)
      raise Error, "there is no handler in #{place}" if found.zero?
    end

    def of_library(name)
      require name
      @registry.bootstrap_handlers!
    end

    # TERM and INT stop with grace, the second one without; USR1 prints what it does, USR2 loads the handlers anew.
    def serve(signals)
      stopping = nil
      loop do
        case signals.pop
        when "TERM", "INT"
          exit!(130) if stopping
          stopping = Thread.new { Worker::Bootstrap.stop! }
        when "USR1" then say(JSON.generate(Worker::Bootstrap.status || {}))
        when "USR2" then reload
        when "ended" then break
        end
      end
      stopping ? stopping.join && 0 : 1
    end

    # A worker claims for the names that it was started with.
    def reload
      before = @registry.registered_handlers
      @registry.reload!
      fresh = @registry.registered_handlers - before
      say("handlers are loaded anew: #{@registry.registered_handlers.join(", ")}")
      say("not claimed for until the next start: #{fresh.join(", ")}") unless fresh.empty?
    rescue StandardError, ScriptError => e
      TaskerCore.logger.error("the handlers stay as they were: #{Outcome.class_name(e)}: #{Outcome.said(e)}")
    end

    def say(text)
      $stdout.puts(text)
      $stdout.flush
    end

    # The templates of a folder, for the server.
    module Templates
      module_function

      def register(folder)
        url = ENV.fetch("TASKER_ORCHESTRATION_URL", "")
        url = "http://127.0.0.1:8080" if url.empty?
        files = Dir[File.join(folder, "*.{yaml,yml}")]
        raise Error, "there is no template in #{folder}" if files.empty?

        files.each { |file| register_file(URI("#{url}/v1/templates"), file) }
      rescue SystemCallError, SocketError, IOError, Timeout::Error => e
        remedy = "start a server, or name another in TASKER_ORCHESTRATION_URL"
        raise Error, "the server at #{url} does not answer: #{e.message}; #{remedy}"
      end

      def register_file(uri, file)
        body = JSON.generate({ yaml: File.read(file, encoding: "UTF-8") })
        answer = Net::HTTP.post(uri, body, { "content-type" => "application/json" })
        raise Error, "#{file} is refused: #{answer.body}" unless answer.is_a?(Net::HTTPSuccess)
      end
    end
  end
end
